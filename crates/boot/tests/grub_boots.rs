//! The real GRUB boots our entry once, in an emulated machine, and the default entry ever after.
//!
//! The kernel is a stand-in of some fifty bytes of machine code: it says its command line and the beginning of its initramfs
//! on the serial line and ends the machine. Whatever GRUB does to either is then seen.

#![cfg(target_arch = "x86_64")]

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use boot::Host;
use boot::command_line::{Argument, Arguments};
use boot::grub::{Environment, Place};
use boot::initramfs::{Compression, Contents, Source};
use keepstate_boot as boot;

/// Emulation of another instruction set by software takes 2 to 5 seconds to GRUB's menu.
const DEADLINE: Duration = Duration::from_mins(1);
/// Where the core image stands, and the filesystem.
const CORE_SECTOR: u64 = 2048;
const ROOT_SECTOR: u64 = 4096;

const MENU: &str = "\
serial --unit=0 --speed=115200
terminal_output serial
load_env
if [ \"${next_entry}\" ] ; then
   set default=\"${next_entry}\"
   set next_entry=
   save_env next_entry
else
   set default=\"0\"
fi
set timeout=0
menuentry 'old OS' {
  echo \"THE OLD OS\"
  halt
}
if [ -f $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
";

/// What GRUB takes for a kernel (`Documentation/arch/x86/boot.rst`): two sectors of header, then code that is entered in 32
/// bits with the address of the boot parameters in `esi`.
fn kernel() -> Vec<u8> {
    let code: &[&[u8]] = &[
        &[0xba, 0xf8, 0x03, 0, 0],             // mov edx, the serial line
        &[0x8b, 0x9e, 0x28, 0x02, 0, 0],       // mov ebx, [esi + command line]
        &[0x8a, 0x03],                         // next: mov al, [ebx]
        &[0x84, 0xc0, 0x74, 0x04],             // test al, al; jz end
        &[0xee, 0x43, 0xeb, 0xf6],             // out dx, al; inc ebx; jmp next
        &[0xb0, b'\n', 0xee],                  // end: mov al, '\n'; out dx, al
        &[0x8b, 0x9e, 0x18, 0x02, 0, 0],       // mov ebx, [esi + initramfs]
        &[0xb9, 6, 0, 0, 0],                   // mov ecx, 6
        &[0x8a, 0x03, 0xee, 0x43],             // byte: mov al, [ebx]; out dx, al; inc ebx
        &[0xe2, 0xfa],                         // loop byte
        &[0xb0, b'\n', 0xee],                  // mov al, '\n'; out dx, al
        &[0x66, 0xba, 0xf4, 0, 0xb0, 1, 0xee], // mov dx, the machine's end; mov al, 1; out dx, al
        &[0xf4, 0xeb, 0xfd],                   // halt for ever
    ];
    let mut kernel = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| kernel[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // sectors of header behind the first
    put(0x1f4, &64_u32.to_le_bytes()); // length of the code in units of 16 bytes
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x020c_u16.to_le_bytes()); // the protocol's version
    put(0x211, &[1]); // loaded high
    put(0x214, &0x10_0000_u32.to_le_bytes()); // where the code begins
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // how high an initramfs may stand
    put(0x230, &0x1000_u32.to_le_bytes()); // alignment
    put(0x238, &2047_u32.to_le_bytes()); // how long a command line may be
    put(0x258, &0x10_0000_u64.to_le_bytes()); // where it would like to be
    put(0x260, &0x10_000_u32.to_le_bytes()); // how much memory it takes
    kernel.extend(code.concat());
    kernel.resize(1024 + 64 * 16, 0);
    kernel
}

fn run(program: &str, arguments: &[&str], directory: &Path, input: &str) {
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().expect("its input").write_all(input.as_bytes()).expect("written");
    let status = child.wait().expect("it ends");
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// A made-up machine whose /boot is put on a disk that an emulated machine boots from.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a directory"));
        for (path, text) in [
            ("boot/grub/grub.cfg", MENU),
            (
                "proc/cmdline",
                "BOOT_IMAGE=/vmlinuz root=UUID=1 console=ttyS0,115200n8 \"dyndbg=file a.c +p; x\" y={z};$q",
            ),
            ("proc/self/mountinfo", "22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n"),
            ("sys/dev/block/259:2/partition", "2\n"),
        ] {
            let path = machine.root().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        fs::write(machine.root().join("vmlinuz"), kernel()).expect("written");
        Environment::create(&machine.root().join("boot/grub/grubenv")).expect("made");
        machine
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    /// Puts our entry into place, and books it.
    fn book(&self) -> Place {
        let host = Host::below(self.root());
        let place = Place::find(&host).expect("read").expect("possible");
        let mut contents = Contents::default();
        contents.file("init", 0o755, Source::Bytes(b"x".to_vec())).expect("added");
        let arguments = Arguments::for_imager(&host, &[Argument::new("keepstate", "here")]).expect("made");
        place.install(&self.root().join("vmlinuz"), &contents, Compression::None, &arguments).expect("put into place");
        place.book().expect("booked");
        place
    }

    /// Makes the disk of what stands below /boot.
    fn make_disk(&self) {
        let modules: Vec<_> = fs::read_dir("/usr/lib/grub/i386-pc").expect("GRUB's modules").collect();
        let to = self.root().join("boot/grub/i386-pc");
        fs::create_dir_all(&to).expect("made");
        for module in modules {
            let module = module.expect("listed").path();
            let ending = module.extension().and_then(|ending| ending.to_str());
            if matches!(ending, Some("mod" | "lst")) {
                fs::copy(&module, to.join(module.file_name().expect("a name"))).expect("copied");
            }
        }
        let disk = File::create(self.root().join("disk")).expect("made");
        disk.set_len(64 << 20).expect("as long as it is");
        let table = "label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\nstart=4096\n";
        run("sfdisk", &["-q", "disk"], self.root(), table);
        let offset = format!("offset={}", ROOT_SECTOR * 512);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", "boot", "-E", &offset, "disk", "60000k"], self.root(), "");
        fs::write(self.root().join("early"), "set root=(hd0,gpt2)\nset prefix=(hd0,gpt2)/grub\n").expect("written");
        let core =
            ["-O", "i386-pc", "-p", "/grub", "-c", "early", "-o", "core", "biosdisk", "part_gpt", "ext2", "normal"];
        run("grub-mkimage", &core, self.root(), "");
        self.write_boot_sector();
    }

    /// What `grub-bios-setup` would do, which knows only disks of the machine it runs on.
    fn write_boot_sector(&self) {
        let mut sector = fs::read("/usr/lib/grub/i386-pc/boot.img").expect("GRUB's boot sector");
        let mut core = fs::read(self.root().join("core")).expect("made");
        core.resize(core.len().next_multiple_of(512), 0);
        sector[0x5c..0x64].copy_from_slice(&CORE_SECTOR.to_le_bytes());
        sector[0x66..0x68].copy_from_slice(&[0x90, 0x90]);
        let rest = (core.len() / 512 - 1) as u16;
        core[500..508].copy_from_slice(&(CORE_SECTOR + 1).to_le_bytes());
        core[508..510].copy_from_slice(&rest.to_le_bytes());
        core[510..512].copy_from_slice(&0x820_u16.to_le_bytes());
        let mut disk = File::options().write(true).open(self.root().join("disk")).expect("opened");
        disk.write_all(&sector[..0x1b8]).expect("written");
        disk.seek(SeekFrom::Start(CORE_SECTOR * 512)).expect("there");
        disk.write_all(&core).expect("written");
    }

    /// Switches the machine on; what it said until it ended.
    fn boot(&self) -> String {
        let mut machine = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none", "-serial", "file:said"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1", "-drive", "file=disk,format=raw,if=ide"])
            .current_dir(self.root())
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu-system-x86_64");
        let begin = Instant::now();
        let is_over = loop {
            if machine.try_wait().expect("asked").is_some() {
                break false;
            }
            if begin.elapsed() > DEADLINE {
                break true;
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        if is_over {
            machine.kill().expect("ended");
            machine.wait().expect("it ended");
        }
        let mut said = Vec::new();
        File::open(self.root().join("said")).and_then(|mut file| file.read_to_end(&mut said)).expect("read");
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!is_over, "it never ended; it said: {said}");
        said
    }
}

#[test]
#[ignore = "needs qemu, GRUB for BIOS, sfdisk and mke2fs: run by ./test"]
fn grub_boots_what_is_booked_once_with_every_argument_as_it_was_and_then_the_old_os() {
    let machine = Machine::new();
    machine.book();
    machine.make_disk();
    let said = machine.boot();
    let expected = "BOOT_IMAGE=(hd0,gpt2)/grub/keepstate/vmlinuz console=ttyS0,115200n8 \"dyndbg=file a.c +p; x\" y={z};$q \
                    panic=30 keepstate=here\n070701\n";
    assert!(said.ends_with(expected), "{said}");
    assert!(!said.contains("THE OLD OS"), "{said}");
    let said = machine.boot();
    assert!(said.contains("THE OLD OS") && !said.contains("keepstate=here"), "{said}");
}

#[test]
#[ignore = "needs qemu, GRUB for BIOS, sfdisk and mke2fs: run by ./test"]
fn an_imager_that_is_gone_leads_to_the_old_os_and_not_to_a_menu_that_waits() {
    let machine = Machine::new();
    machine.book();
    fs::remove_file(machine.root().join("boot/grub/keepstate/imager.img")).expect("removed");
    machine.make_disk();
    let said = machine.boot();
    assert!(said.contains("imager.img' not found") && said.contains("THE OLD OS"), "{said}");
}

#[test]
#[ignore = "needs qemu, GRUB for BIOS, sfdisk and mke2fs: run by ./test"]
fn what_was_taken_away_is_not_booted() {
    let machine = Machine::new();
    machine.book().remove().expect("removed");
    machine.make_disk();
    let said = machine.boot();
    assert!(said.contains("THE OLD OS") && !said.contains("error"), "{said}");
}
