//! The end of this kernel's run.

use std::io;

use rustix::system::RebootCommand;

/// What comes after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The firmware starts the machine anew.
    Restart,
    /// The machine is switched off.
    PowerOff,
    /// The machine stops and stays on.
    Halt,
    /// The kernel starts that was handed over with [`kexec_load`](super::kexec_load).
    Kexec,
}

impl How {
    fn command(self) -> RebootCommand {
        match self {
            Self::Restart => RebootCommand::Restart,
            Self::PowerOff => RebootCommand::PowerOff,
            Self::Halt => RebootCommand::Halt,
            Self::Kexec => RebootCommand::Kexec,
        }
    }
}

/// Ends this kernel's run at once: no program is told and nothing is flushed. Whoever calls this has flushed what has
/// to last. Returns only when the kernel refuses; kexec without a kernel loaded is "invalid argument".
pub fn reboot(how: How) -> io::Result<()> {
    Ok(rustix::system::reboot(how.command())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Called here, it would end the machine that runs the tests: only what it asks for is looked at.
    #[test]
    fn each_end_is_the_kernels_command_of_that_name() {
        assert_eq!(How::Restart.command(), RebootCommand::Restart);
        assert_eq!(How::PowerOff.command(), RebootCommand::PowerOff);
        assert_eq!(How::Halt.command(), RebootCommand::Halt);
        assert_eq!(How::Kexec.command(), RebootCommand::Kexec);
    }
}
