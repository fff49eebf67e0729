//! The imager as an entry of UEFI firmware that is booted once (`BootNext`), where GRUB does not boot the machine.
//!
//! The firmware starts the kernel itself (it is an EFI program), which reads the imager from the same partition. The order
//! of boot entries is never changed: every boot but the next one leads where it led before.

mod device_path;
mod load_option;
mod place;
mod variables;

pub use device_path::{DevicePath, HardDrive, Node};
pub use load_option::LoadOption;
pub use place::{Facts, Place, take_away};
pub use variables::{Variable, Variables};
