//! A machine: what it is made of, its switch, and the lines to what runs in it.

mod arguments;
mod console;
mod disk;
mod get;
mod hang;
mod power;
mod qmp;
mod shell;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

pub use disk::{Disk, Failing, Fault};
pub use shell::Answer;

use crate::error::{Error, Result, io};
use crate::{run, tools, tree};
use console::Console;
use power::Power;

/// What a command in the guest gets if nobody says otherwise.
pub const SOON: Duration = Duration::from_secs(30);
/// Between two looks at a log.
const LOOK: Duration = Duration::from_millis(50);
/// Bytes that are written in the guest with one command.
const PIECE: usize = 1 << 10;
/// Memory of a machine, MiB, if nobody says otherwise: a small server's, and enough for UEFI, GRUB and an initramfs.
const MEMORY_MIB: u32 = 512;

/// What a machine starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// `SeaBIOS`.
    Bios,
    /// OVMF, without Secure Boot; each machine has variables of its own, which last as long as the machine.
    Uefi,
}

/// How disks are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// As with most clouds: `/dev/vda`.
    Virtio,
    /// As with local disks, and newer clouds: `/dev/nvme0n1`.
    Nvme,
}

/// A kernel that is started without firmware and disk.
#[derive(Clone, Debug)]
struct Direct {
    kernel: PathBuf,
    initramfs: PathBuf,
    command_line: String,
}

/// A machine. It is switched off when it is dropped.
///
/// Everything that it ever printed stays in its folder, `target/lab/<name>/`, until a machine of the same name is made.
#[derive(Debug)]
pub struct Machine {
    name: String,
    folder: PathBuf,
    firmware: Firmware,
    bus: Bus,
    memory_mib: u32,
    processors: u32,
    processor: String,
    disks: Vec<Disk>,
    /// The serial number of the disk that the firmware begins with.
    first: Option<String>,
    ports: Vec<u16>,
    direct: Option<Direct>,
    more: Vec<String>,
    console: Console,
    starts: u32,
    power: Option<Power>,
}

/// What it is made of.
impl Machine {
    /// A machine without disks: BIOS, virtio, 512 MiB, one processor. What a machine of this name left behind is removed.
    pub fn new(name: &str) -> Result<Self> {
        tools::need(&tools::MACHINE)?;
        let folder = folder().join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(io("removing", folder.display()))?;
        }
        let disks = folder.join("disks");
        fs::create_dir_all(&disks).map_err(io("making", disks.display()))?;
        let log = folder.join("console.log");
        let console = Console::begin(log.clone()).map_err(io("making", log.display()))?;
        Ok(Self {
            name: name.into(),
            folder,
            firmware: Firmware::Bios,
            bus: Bus::Virtio,
            memory_mib: MEMORY_MIB,
            processors: 1,
            processor: "qemu64".into(),
            disks: Vec::new(),
            first: None,
            ports: Vec::new(),
            direct: None,
            more: Vec::new(),
            console,
            starts: 0,
            power: None,
        })
    }

    /// With this firmware.
    #[must_use]
    pub fn firmware(mut self, firmware: Firmware) -> Self {
        self.firmware = firmware;
        self
    }

    /// With its disks on this bus.
    #[must_use]
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// With so much memory.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// With so many processors. One boots fastest.
    #[must_use]
    pub fn processors(mut self, processors: u32) -> Self {
        self.processors = processors;
        self
    }

    /// With another model of processor than `qemu64`, such as `max`.
    #[must_use]
    pub fn processor(mut self, model: &str) -> Self {
        self.processor = model.into();
        self
    }

    /// With one more disk. The machine boots from the first one, wherever that is attached later.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.first.get_or_insert_with(|| disk.serial().into());
        self.disks.push(disk);
        self
    }

    /// With a TCP port of the guest that the host can reach: [`Self::port`] says where.
    #[must_use]
    pub fn forward(mut self, guest_port: u16) -> Self {
        self.ports.push(guest_port);
        self
    }

    /// With this kernel started at once, without firmware, boot loader and disk.
    #[must_use]
    pub fn kernel(mut self, kernel: &Path, initramfs: &Path, command_line: &str) -> Self {
        let command_line = command_line.into();
        self.direct = Some(Direct { kernel: kernel.into(), initramfs: initramfs.into(), command_line });
        self
    }

    /// With more arguments for QEMU.
    #[must_use]
    pub fn arguments(mut self, more: &[&str]) -> Self {
        self.more.extend(more.iter().map(|&argument| argument.into()));
        self
    }

    /// A disk, to be changed while the machine is off.
    pub fn disk_mut(&mut self, serial: &str) -> Result<&mut Disk> {
        self.must_be_off("disks are changed while it is off: call cut_power or shut_down first")?;
        let found = self.disks.iter_mut().find(|disk| disk.serial() == serial);
        found.ok_or_else(|| Error::Senseless(format!("{} has no disk {serial}", self.name)))
    }

    /// Attaches the disks in this order, from the next start on: the kernel's names for them change with it.
    pub fn attach_in_order(&mut self, serials: &[&str]) -> Result<()> {
        self.must_be_off("disks are attached while it is off: call cut_power or shut_down first")?;
        let place = |disk: &Disk| serials.iter().position(|serial| *serial == disk.serial());
        if serials.len() != self.disks.len() || self.disks.iter().any(|disk| place(disk).is_none()) {
            return Err(Error::Senseless(format!("{serials:?} are not the disks of {}, each once", self.name)));
        }
        self.disks.sort_by_key(|disk| place(disk));
        Ok(())
    }

    /// Forgets what the UEFI firmware remembers, such as the order of boot entries.
    pub fn forget_variables(&mut self) -> Result<()> {
        self.must_be_off("firmware variables are in use: call cut_power or shut_down first")?;
        let variables = self.variables();
        match fs::remove_file(&variables) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io("removing", variables.display())(error))
            }
            _ => Ok(()),
        }
    }

    /// The whole content of a disk, as a raw file at `to`.
    pub fn read_disk(&self, serial: &str, to: &Path) -> Result<()> {
        self.must_be_off("its disks are in use: call cut_power or shut_down first")?;
        let disk = self.find(serial)?;
        let mut convert = run::command("qemu-img", ["convert", "-O", "raw"]);
        run::output(convert.arg(disk.path(&self.disks_folder())).arg(to)).map(drop)
    }

    /// The same of a machine that runs: it stands still meanwhile.
    pub fn read_disk_paused(&mut self, serial: &str, to: &Path) -> Result<()> {
        self.qmp("stop", &serde_json::json!({}))?;
        let disk = self.find(serial)?.path(&self.disks_folder());
        // Nothing writes to it while the machine stands still.
        let mut convert = run::command("qemu-img", ["convert", "--force-share", "-O", "raw"]);
        let read = run::output(convert.arg(disk).arg(to)).map(drop);
        self.qmp("cont", &serde_json::json!({}))?;
        read
    }

    /// Where the machine's log and disks are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything that its first serial port ever printed.
    pub fn console_log(&self) -> &Path {
        self.console.path()
    }

    fn find(&self, serial: &str) -> Result<&Disk> {
        let found = self.disks.iter().find(|disk| disk.serial() == serial);
        found.ok_or_else(|| Error::Senseless(format!("{} has no disk {serial}", self.name)))
    }

    fn boots_from(&self) -> Option<&str> {
        self.first.as_deref()
    }

    fn disks_folder(&self) -> PathBuf {
        self.folder.join("disks")
    }

    fn variables(&self) -> PathBuf {
        self.disks_folder().join("variables.qcow2")
    }
}

/// Its switch.
impl Machine {
    /// Switches it on.
    pub fn power_on(&mut self) -> Result<()> {
        self.start(None)
    }

    /// Switches it on in the state that [`Self::snapshot`] kept: a system that is up, in half a second.
    pub fn power_on_from(&mut self, snapshot: &str) -> Result<()> {
        self.start(Some(snapshot))
    }

    /// Keeps the whole state, memory and disks, under a name. Its disks have to be virtio disks; an `NVMe` controller
    /// cannot be kept.
    pub fn snapshot(&mut self, name: &str) -> Result<()> {
        let complaint = self.power()?.monitor(&format!("savevm {name}"))?;
        if complaint.trim().is_empty() {
            return Ok(());
        }
        Err(Error::Refused { command: format!("savevm {name}"), why: complaint.trim().into() })
    }

    /// Cuts the power, at this instant. What the guest flushed is on its disks, and perhaps some of what it did not.
    pub fn cut_power(&mut self) {
        self.power = None;
    }

    /// Presses the power button, and waits until the guest has switched itself off.
    pub fn shut_down(&mut self, within: Duration) -> Result<()> {
        self.power()?.execute("system_powerdown", &json!({}))?;
        self.wait_for_power_off(within)
    }

    /// Waits until the guest has switched itself off.
    pub fn wait_for_power_off(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        while self.power()?.ended("it was switched off").is_none() {
            if Instant::now() > deadline {
                return Err(self.late("the end of the guest", within));
            }
            std::thread::sleep(LOOK);
        }
        self.power = None;
        Ok(())
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        self.power()?.execute("system_reset", &json!({})).map(drop)
    }

    /// How long it has been on.
    pub fn on_for(&self) -> Duration {
        self.power.as_ref().map_or(Duration::ZERO, |power| power.since.elapsed())
    }

    fn start(&mut self, snapshot: Option<&str>) -> Result<()> {
        self.must_be_off("it cannot be switched on again: call cut_power or shut_down first")?;
        let folder = self.disks_folder();
        for disk in &self.disks {
            disk.make(&folder)?;
        }
        if self.firmware == Firmware::Uefi {
            tools::need(&tools::UEFI)?;
            let variables = self.variables();
            if !variables.exists() {
                // As a qcow2, so that a snapshot of the machine can hold them.
                let mut convert = run::command("qemu-img", ["convert", "-O", "qcow2"]);
                run::output(convert.arg(tools::path(&tools::OVMF_VARS)).arg(variables))?;
            }
        }
        self.starts += 1;
        let what = format!("{} is switched on, time {}: {:?}, {:?}", self.name, self.starts, self.firmware, self.bus);
        self.console.remark(&what).map_err(io("writing to", self.console.path().display()))?;
        self.console.pass_over().map_err(io("reading", self.console.path().display()))?;
        let mut power = Power::start(self, snapshot)?;
        for disk in self.disks.iter().filter(|disk| disk.bytes_per_second > 0) {
            let (command, arguments) = disk.throttle(self.bus, disk.bytes_per_second);
            power.execute(command, &arguments)?;
        }
        power.execute("cont", &json!({}))?;
        self.power = Some(power);
        Ok(())
    }

    fn power(&mut self) -> Result<&mut Power> {
        let machine = self.name.clone();
        let why = "call power_on first";
        self.power.as_mut().ok_or(Error::Switched { machine, state: "off", why })
    }

    fn must_be_off(&self, why: &'static str) -> Result<()> {
        match self.power {
            None => Ok(()),
            Some(_) => Err(Error::Switched { machine: self.name.clone(), state: "on", why }),
        }
    }

    fn late(&self, waited_for: &str, within: Duration) -> Error {
        Error::Deadline { waited_for: waited_for.into(), within, log: self.console.path().into() }
    }
}

/// What goes wrong around it.
impl Machine {
    /// Pulls the network cable.
    pub fn cut_link(&mut self) -> Result<()> {
        self.set_link(false)
    }

    /// Puts the network cable back.
    pub fn mend_link(&mut self) -> Result<()> {
        self.set_link(true)
    }

    /// Limits the speed of a disk, from now on, to so many bytes per second; 0 takes the limit away.
    pub fn throttle(&mut self, serial: &str, bytes_per_second: u64) -> Result<()> {
        let (command, arguments) = self.find(serial)?.throttle(self.bus, bytes_per_second);
        self.power()?.execute(command, &arguments).map(drop)
    }

    /// Has a sound disk fail in these ways, from now on and until the machine is off. On a virtio bus: that is where a
    /// disk's content can be changed for another.
    pub fn break_disk(&mut self, serial: &str, faults: &[Fault]) -> Result<()> {
        let broken = self.find(serial)?.broken(faults);
        let drive = json!({ "path": Disk::behind(serial), "property": "drive", "value": broken["node-name"] });
        self.qmp("blockdev-add", &broken)?;
        self.qmp("qom-set", &drive).map(drop)
    }

    /// What would be a restart ends the machine from now on, so that nothing boots before its disks are read.
    pub fn end_at_restart(&mut self) -> Result<()> {
        self.qmp("set-action", &json!({ "reboot": "shutdown" })).map(drop)
    }

    /// A command of QEMU's own protocol, for what has no name here.
    pub fn qmp(&mut self, command: &str, arguments: &serde_json::Value) -> Result<serde_json::Value> {
        self.power()?.execute(command, arguments)
    }

    /// Hangs the guest's kernel: whatever it does now, it does for ever. Only interrupts are still taken.
    pub fn hang_kernel(&mut self) -> Result<()> {
        self.hang(false)
    }

    /// The same with interrupts off: no timer of the kernel's own ends that, only hardware.
    pub fn hang_kernel_deaf(&mut self) -> Result<()> {
        self.hang(true)
    }

    fn hang(&mut self, is_deaf: bool) -> Result<()> {
        let folder = tempfile::tempdir().map_err(io("making a directory for", "a socket"))?;
        let socket = folder.path().join("debugger");
        let line = format!("gdbserver unix:{},server=on,wait=off", socket.display());
        self.qmp("human-monitor-command", &json!({ "command-line": line }))?;
        hang::hang(&socket, is_deaf)
    }

    fn set_link(&mut self, up: bool) -> Result<()> {
        self.power()?.execute("set_link", &json!({ "name": "network", "up": up })).map(drop)
    }
}

/// What runs in it.
impl Machine {
    /// Waits until `text` is printed on the console, and gives the line. What was printed before that line counts as seen.
    pub fn wait_for(&mut self, text: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            // Asked first: what a machine printed before it ended is all there.
            let ended = self.power()?.ended(&format!("{text:?} was waited for"));
            if let Some(line) = self.console.look_for(text).map_err(io("reading", self.console.path().display()))? {
                return Ok(line);
            }
            if let Some(ended) = ended {
                return Err(ended);
            }
            if Instant::now() > deadline {
                return Err(self.late(&format!("{text:?} on the console"), within));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until the guest's control shell answers, and gives how long the machine has been on.
    pub fn wait_until_up(&mut self, within: Duration) -> Result<Duration> {
        let deadline = Instant::now() + within;
        if self.power()?.greet(deadline)? {
            Ok(self.on_for())
        } else {
            Err(self.late("an answer of the control shell", within))
        }
    }

    /// Which start of which system this is: another one after each reboot.
    pub fn boot_id(&mut self) -> Result<String> {
        self.sh("cat /proc/sys/kernel/random/boot_id")
    }

    /// Waits until another start of a system than `boot_id` answers, and gives its own.
    pub fn wait_for_other_boot(&mut self, boot_id: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            // In small steps: who answers may be gone before it has said everything.
            let step = deadline.min(Instant::now() + Duration::from_secs(3));
            if self.power()?.greet(step)? {
                let limit = Duration::from_secs(2);
                match self.power()?.run("cat /proc/sys/kernel/random/boot_id", limit)? {
                    Some(answer) if answer.code == 0 && answer.output.trim() != boot_id => {
                        return Ok(answer.output.trim().into());
                    }
                    _ => std::thread::sleep(LOOK),
                }
            }
            if Instant::now() > deadline {
                return Err(self.late("another start of a system", within));
            }
        }
    }

    /// Runs a command as root in the guest, for 30 s at most, and gives what it printed, without white space at the end.
    pub fn sh(&mut self, command: &str) -> Result<String> {
        self.sh_within(command, SOON)
    }

    /// The same, with another limit.
    pub fn sh_within(&mut self, command: &str, within: Duration) -> Result<String> {
        let answer = self.try_sh(command, within)?;
        if answer.code == 0 {
            return Ok(answer.output.trim_end().into());
        }
        Err(Error::Guest { command: command.into(), code: answer.code, output: answer.output.trim_end().into() })
    }

    /// Runs a command that may fail.
    pub fn try_sh(&mut self, command: &str, within: Duration) -> Result<Answer> {
        let answer = self.power()?.run(command, within)?;
        answer.ok_or_else(|| self.late(&format!("an answer of the control shell to {command:?}"), within))
    }

    /// Writes a small file in the guest: kilobytes. What is larger is better fetched from a [`crate::http::Server`].
    pub fn write_file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.sh(&format!(": >'{path}'"))?;
        for piece in bytes.chunks(PIECE) {
            // In digits, so that nothing on the way takes a byte for something else.
            let digits: Vec<String> = piece.iter().map(|byte| format!("\\0{byte:03o}")).collect();
            self.sh(&format!("printf %b '{}' >>'{path}'", digits.concat()))?;
        }
        Ok(())
    }

    /// Tells the guest something and does not wait for an answer: `reboot`, for one.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        // In a moment, so that the shell has read all of the line.
        self.try_sh(&format!("(sleep 0.2; {command}) >/dev/null 2>&1 &"), SOON).map(drop)
    }

    /// Types on the console: for firmware, boot loaders and whoever is logged in there.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.power()?.type_text(text)
    }

    /// The folder with the sockets `console` and `control`, where a person can connect to the guest's serial ports.
    pub fn sockets(&mut self) -> Result<PathBuf> {
        Ok(self.power()?.sockets().into())
    }

    /// The port of the host that leads to a port of the guest.
    pub fn port(&mut self, guest_port: u16) -> Result<u16> {
        let info = self.power()?.monitor("info usernet")?;
        let none =
            || Error::Senseless(format!("port {guest_port} was not forwarded; before it is switched on: forward"));
        arguments::host_port(&info, guest_port).ok_or_else(none)
    }

    /// What `GET PATH` gives at a port of the guest ([`Self::forward`]): the body of an answer of 200. Tried again until there
    /// is one: before somebody listens, connections end without an answer.
    pub fn get(&mut self, guest_port: u16, path: &str, within: Duration) -> Result<String> {
        let port = self.port(guest_port)?;
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.late(&format!("an answer to GET {path}"), within));
            }
            match get::get(port, path, left.min(Duration::from_secs(5))) {
                Ok(body) => return Ok(body),
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Runs a command as root over SSH. Needs a Debian with `openssh-server`, and `forward(22)`.
    pub fn ssh(&mut self, command: &str, within: Duration) -> Result<String> {
        tools::need(&tools::SSH)?;
        let port = self.port(22)?;
        let mut ssh = run::command("timeout", [within.as_secs().max(1).to_string().as_str(), "ssh", "-i"]);
        ssh.arg(tree::private_key()?).args(["-p", &port.to_string(), "-o", "BatchMode=yes"]);
        // Every machine has its own key, and the next one another at the same port.
        ssh.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
        run::output(ssh.args(["root@127.0.0.1", command]))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power = None;
        // Of a test that failed, the disks are evidence; of others, gigabytes.
        if !std::thread::panicking() && std::env::var_os("KEEPSTATE_LAB_KEEP").is_none() {
            let _ = fs::remove_dir_all(self.disks_folder());
        }
    }
}

/// Where machines have their folders: what `KEEPSTATE_LAB` says, or `target/lab`.
pub(crate) fn folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("KEEPSTATE_LAB") {
        return folder.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from).join("lab")
}
