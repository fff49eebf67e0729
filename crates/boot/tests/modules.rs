//! Modules resolved on a made-up machine whose tables the real `depmod` wrote, compared with what `modprobe` would do.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use boot::Host;
use boot::initramfs::{Contents, Parts};
use boot::modules::{Modules, Wanted, resolve};
use keepstate_boot as boot;

const RELEASE: &str = "6.1.0-test";

/// A machine of its own for each test.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().expect("a directory"));
        machine.write("proc/cmdline", "quiet");
        machine.write("proc/filesystems", "nodev\tproc\n\text4\n");
        machine
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn host(&self) -> Host {
        Host::below(self.root())
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// Compiles a module that exports a symbol of its own name, needs those of `needs`, and says `information` of itself.
    fn module(&self, path: &str, needs: &[&str], information: &[&str]) {
        let name = Path::new(path).file_stem().expect("a name").to_string_lossy().replace('-', "_");
        let texts = ["license=GPL"].iter().chain(information).copied().collect::<Vec<_>>().join("\\0");
        let section = |name: &str| format!("__attribute__((used, section(\"{name}\"), aligned(1)))");
        let own = format!(
            "static const char i[] {} = \"{texts}\";\nstatic const char s[] {} = \"symbol_{name}\";\n",
            section(".modinfo"),
            section("__ksymtab_strings"),
        );
        let used =
            needs.iter().map(|need| format!("extern void symbol_{need}(void);\nvoid *uses_{need} = symbol_{need};\n"));
        let source = own + &used.collect::<Vec<_>>().concat();
        self.write("module.c", &source);
        let object = self.root().join("lib/modules").join(RELEASE).join("kernel").join(path);
        fs::create_dir_all(object.parent().expect("a folder")).expect("made");
        let root = self.root();
        run(Command::new("cc").arg("-c").arg(root.join("module.c")).arg("-o").arg(object));
    }

    fn depmod(&self) {
        for table in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
            let path = self.root().join("lib/modules").join(RELEASE).join(table);
            if !path.exists() {
                fs::write(path, "").expect("written");
            }
        }
        run(Command::new("depmod").arg("-b").arg(self.root()).arg(RELEASE));
    }

    /// A device below `/sys/devices`, with what is driven by it linked from `links`.
    fn device(&self, path: &str, alias: Option<&str>, module: Option<&str>, links: &[&str]) {
        let device = self.root().join("sys/devices").join(path);
        fs::create_dir_all(&device).expect("made");
        if let Some(alias) = alias {
            fs::write(device.join("modalias"), format!("{alias}\n")).expect("written");
        }
        if let Some(module) = module {
            let (module, driver) = (self.root().join("sys/module").join(module), device.join("driver"));
            fs::create_dir_all(&module).expect("made");
            fs::create_dir_all(&driver).expect("made");
            symlink(module, driver.join("module")).expect("linked");
        }
        for link in links {
            let link = self.root().join("sys").join(link);
            fs::create_dir_all(link.parent().expect("a folder")).expect("made");
            symlink(&device, link).expect("linked");
        }
    }

    fn resolve(&self, filesystems: &[&str], also: &[&str]) -> Modules {
        let text = |list: &[&str]| list.iter().map(|&name| name.to_owned()).collect();
        let wanted = Wanted { release: RELEASE.into(), filesystems: text(filesystems), also: text(also) };
        resolve(&self.host(), &wanted).expect("resolved")
    }

    /// What `modprobe` would load for a name: path and options, in its order.
    fn modprobe(&self, name: &str) -> Vec<(String, String)> {
        let config = self.root().join("etc/modprobe.d");
        fs::create_dir_all(&config).expect("made");
        let mut command = Command::new("modprobe");
        command.args(["--show-depends", "-S", RELEASE, "-d"]).arg(self.root()).arg("-C").arg(config).arg(name);
        steps(&run(&mut command))
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `modprobe` says it would load, each once: it repeats what is loaded by then.
fn steps(shown: &str) -> Vec<(String, String)> {
    let mut steps = Vec::new();
    for line in shown.lines().filter_map(|line| line.strip_prefix("insmod ")) {
        let (path, options) = line.split_once(' ').unwrap_or((line, ""));
        let step = (path.to_owned(), options.split_whitespace().collect::<Vec<_>>().join(" "));
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
    steps
}

fn ours(modules: &Modules) -> Vec<(String, String)> {
    let shown = modules.modules.iter().map(|module| (module.file.display().to_string(), module.options.clone()));
    shown.collect()
}

fn names(modules: &Modules) -> Vec<&str> {
    modules.modules.iter().map(|module| module.name.as_str()).collect()
}

/// A cloud instance: a virtio disk and network card, with a driver for each.
fn cloud() -> Machine {
    let machine = Machine::new();
    machine.module("virtio/virtio_ring.ko", &[], &[]);
    machine.module("virtio/virtio.ko", &["virtio_ring"], &[]);
    machine.module("virtio/virtio_pci.ko", &["virtio", "virtio_ring"], &["alias=pci:v00001AF4d*"]);
    machine.module("block/virtio_blk.ko", &["virtio", "virtio_ring"], &["alias=virtio:d00000002v*"]);
    machine.module("net/failover.ko", &[], &[]);
    machine.module("net/net_failover.ko", &["failover"], &[]);
    let firmware = ["alias=virtio:d00000001v*", "firmware=virtio/net.bin", "firmware=virtio/none.bin"];
    machine.module("net/virtio_net.ko", &["virtio", "virtio_ring", "net_failover"], &firmware);
    machine.module("sound/virtio_snd.ko", &["virtio"], &["alias=virtio:d00000019v*"]);
    machine.module("watchdog/softdog.ko", &[], &[]);
    machine.module("watchdog/i6300esb.ko", &[], &["alias=pci:v00008086d000025AB*"]);
    machine.module("crypto/crc32c-intel.ko", &[], &["alias=crc32c"]);
    machine.module("fs/xfs.ko", &["libcrc32c"], &["alias=fs-xfs"]);
    machine.module("lib/libcrc32c.ko", &[], &["softdep=pre: crc32c"]);
    machine.module("fs/vfat.ko", &["fat"], &["alias=fs-vfat"]);
    machine.module("fs/fat.ko", &[], &[]);
    machine.module("fs/nls_cp437.ko", &[], &[]);
    machine.module("fs/nls_iso8859-1.ko", &[], &[]);
    machine.depmod();
    let disk = "pci0000:00/0000:00:04.0/virtio1";
    machine.device("pci0000:00/0000:00:04.0", Some("pci:v00001AF4d00001001"), Some("virtio_pci"), &[]);
    machine.device(disk, Some("virtio:d00000002v00001AF4"), Some("virtio_blk"), &["bus/virtio/devices/virtio1"]);
    machine.device(&format!("{disk}/block/vda"), None, None, &["class/block/vda"]);
    machine.device("pci0000:00/0000:00:03.0", Some("pci:v00001AF4d00001000"), Some("virtio_pci"), &[]);
    let card = "pci0000:00/0000:00:03.0/virtio0";
    machine.device(card, Some("virtio:d00000001v00001AF4"), Some("virtio_net"), &["bus/virtio/devices/virtio0"]);
    machine.device(&format!("{card}/net/eth0"), None, None, &["class/net/eth0"]);
    // Something else: not needed.
    machine.device("pci0000:00/0000:00:05.0/virtio2", Some("virtio:d00000019v00001AF4"), Some("virtio_snd"), &[]);
    machine
}

#[test]
#[ignore = "needs a C compiler, depmod and modprobe: run by ./test"]
fn a_cloud_instance_gets_its_disk_and_card_and_no_more() {
    let machine = cloud();
    machine.write("lib/firmware/virtio/net.bin", "firmware");
    let modules = machine.resolve(&["ext4"], &[]);
    let expected =
        ["softdog", "virtio_ring", "virtio", "virtio_pci", "virtio_blk", "failover", "net_failover", "virtio_net"];
    assert_eq!(names(&modules), expected);
    assert_eq!(modules.missing, []);
    assert_eq!(modules.firmware.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["virtio/net.bin"]);
    let because = &modules.modules.iter().find(|module| module.name == "virtio_blk").expect("there").because;
    assert_eq!(because, "it drives /sys/devices/pci0000:00/0000:00:04.0/virtio1");
    let binary = machine.root().join("module.c");
    let contents = Parts { binary, job: Vec::new(), modules: &modules }.for_kernel().expect("put together");
    let has = |contents: &Contents, path: &str| contents.entries().any(|(one, _)| one == path);
    assert!(has(&contents, "keepstate/modules/virtio_blk.ko") && has(&contents, "lib/firmware/virtio/net.bin"));
}

#[test]
#[ignore = "needs a C compiler, depmod and modprobe: run by ./test"]
fn order_and_options_are_modprobes() {
    let machine = cloud();
    machine.module("x/top.ko", &["mid", "virtio"], &["softdep=pre: fat post: failover"]);
    machine.module("x/mid.ko", &["low"], &["softdep=pre: crc32c"]);
    machine.module("x/low.ko", &[], &[]);
    machine.depmod();
    machine.write("etc/modprobe.d/a.conf", "options virtio-net napi_tx=1\noptions low x=1 \\\n y=2\nalias other top\n");
    machine.write("etc/modprobe.d/b.conf", "options low z=3\nsoftdep low pre: virtio_ring\n");
    for name in ["virtio_blk", "virtio_net", "xfs", "vfat", "top", "mid", "other"] {
        let resolved = ours(&machine_without_devices(&machine).resolve(name));
        // The watchdog that every imager gets comes first.
        let mut expected = machine.modprobe("softdog");
        expected.extend(machine.modprobe(name));
        assert_eq!(resolved, expected, "{name}");
    }
}

/// The same tables and configuration, on a machine that has no devices.
struct Tables<'a>(&'a Machine);

fn machine_without_devices(machine: &Machine) -> Tables<'_> {
    let _ = fs::remove_dir_all(machine.root().join("sys"));
    Tables(machine)
}

impl Tables<'_> {
    fn resolve(&self, name: &str) -> Modules {
        self.0.resolve(&[], &[name])
    }
}

#[test]
#[ignore = "needs a C compiler, depmod and modprobe: run by ./test"]
fn filesystems_bring_what_they_ask_for_late() {
    let machine = cloud();
    let modules = machine_without_devices(&machine).0.resolve(&["xfs", "vfat", "ext4"], &[]);
    let expected = ["softdog", "crc32c_intel", "libcrc32c", "xfs", "fat", "vfat", "nls_cp437", "nls_iso8859_1"];
    assert_eq!(names(&modules), expected);
    let modules = machine.resolve(&["btrfs"], &[]);
    assert_eq!(modules.missing[0].name, "btrfs");
    assert_eq!(modules.missing[0].because, "it was asked for, to mount btrfs");
}

#[test]
#[ignore = "needs a C compiler, depmod and modprobe: run by ./test"]
fn a_controller_that_nothing_drives_is_asked_what_it_would_take() {
    let machine = cloud();
    machine.module("block/second.ko", &[], &["alias=virtio:d00000002v*"]);
    machine.depmod();
    machine.write("etc/modprobe.d/x.conf", "blacklist second\n");
    let alias = Some("virtio:d00000002v00001AF4");
    machine.device("pci0000:00/0000:00:06.0/virtio3", alias, None, &["bus/virtio/devices/virtio3"]);
    // The one that is driven tells nothing new; the one that is not is served by what the administrator allows.
    assert!(!names(&machine.resolve(&[], &[])).contains(&"second"));
    machine.write("etc/modprobe.d/x.conf", "");
    assert!(names(&machine.resolve(&[], &[])).contains(&"second"));
}

#[test]
#[ignore = "needs a C compiler, depmod and modprobe: run by ./test"]
fn a_hardware_watchdog_comes_before_the_softwares_even_where_udev_must_not_load_it() {
    let machine = cloud();
    machine.write("lib/modprobe.d/blacklist.conf", "blacklist i6300esb\n");
    let alias = Some("pci:v00008086d000025ABsv00001AF4sd00001100bc08sc80i00");
    machine.device("pci0000:00/0000:00:07.0", alias, None, &["bus/pci/devices/0000:00:07.0"]);
    let modules = machine.resolve(&[], &[]);
    assert_eq!(names(&modules)[..2], ["i6300esb", "softdog"]);
}

#[test]
#[ignore = "needs a C compiler, depmod and modprobe: run by ./test"]
fn what_is_barred_or_gone_is_missing_and_so_is_what_needs_it() {
    let machine = cloud();
    machine.write("proc/cmdline", "module_blacklist=failover");
    let modules = machine.resolve(&[], &[]);
    assert!(!names(&modules).contains(&"virtio_net"), "{:?}", names(&modules));
    assert_eq!(modules.missing[0].name, "failover");
    assert!(modules.missing[0].because.contains("needs it, but it is configured never"), "{:?}", modules.missing);
    let machine = cloud();
    machine.write("etc/modprobe.d/x.conf", "install virtio_blk /bin/false\n");
    assert_eq!(machine.resolve(&[], &[]).missing[0].name, "virtio_blk");
    // A driver that was loaded from nobody knows where.
    let machine = cloud();
    machine.device("pci0000:00/0000:00:08.0", None, Some("mynic"), &[]);
    machine.device("pci0000:00/0000:00:08.0/net/eth1", None, None, &["class/net/eth1"]);
    let modules = machine.resolve(&[], &[]);
    assert_eq!(modules.missing[0].name, "mynic");
    assert_eq!(modules.missing[0].because, "it drives /sys/devices/pci0000:00/0000:00:08.0");
}

#[test]
#[ignore = "needs a C compiler, depmod and modprobe: run by ./test"]
fn what_is_built_in_needs_no_file_and_bonds_and_suppliers_are_not_forgotten() {
    let machine = cloud();
    machine.module("net/bonding.ko", &[], &[]);
    machine.module("net/bridge/bridge.ko", &[], &[]);
    machine.module("clk/clock.ko", &[], &[]);
    machine.write(&format!("lib/modules/{RELEASE}/modules.builtin"), "kernel/drivers/nvme/host/nvme.ko\n");
    machine.depmod();
    let information = "nvme.license=GPL\0nvme.firmware=nvme.bin\0other.firmware=other.bin\0";
    machine.write(&format!("lib/modules/{RELEASE}/modules.builtin.modinfo"), information);
    machine.write("lib/firmware/nvme.bin", "x");
    machine.write("lib/firmware/other.bin", "x");
    machine.device("pci0000:00/0000:00:09.0", None, Some("nvme"), &[]);
    machine.device("pci0000:00/0000:00:09.0/nvme/nvme0/nvme0n1", None, None, &["class/block/nvme0n1"]);
    machine.device("platform/clock", None, Some("clock"), &[]);
    let link = "sys/devices/virtual/devlink/x";
    fs::create_dir_all(machine.root().join(link)).expect("made");
    symlink(machine.root().join("sys/devices/platform/clock"), machine.root().join(link).join("supplier"))
        .expect("linked");
    let supplied = machine.root().join("sys/devices/pci0000:00/0000:00:09.0/supplier:platform:clock");
    symlink(machine.root().join(link), supplied).expect("linked");
    machine.device("virtual/net/bond0", None, None, &["class/net/bond0"]);
    machine.write("sys/devices/virtual/net/bond0/uevent", "DEVTYPE=bond\nINTERFACE=bond0\n");
    machine.device("virtual/net/br0", None, None, &["class/net/br0"]);
    machine.write("sys/devices/virtual/net/br0/uevent", "DEVTYPE=bridge\nINTERFACE=br0\n");
    machine.device("virtual/net/lo", None, None, &["class/net/lo"]);
    let modules = machine.resolve(&[], &[]);
    assert_eq!(modules.missing, []);
    let has = |name: &str| names(&modules).contains(&name);
    assert!(has("clock") && has("bonding") && has("bridge") && !has("nvme"), "{:?}", names(&modules));
    let bonding = modules.modules.iter().find(|module| module.name == "bonding").expect("it is there");
    assert_eq!(bonding.options, "max_bonds=0", "or it makes a bond of its own");
    assert_eq!(modules.firmware.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["nvme.bin"]);
}

/// Modules of a whole distribution's kernel, below the root that `KEEPSTATE_TEST_MODULES` names: whatever is asked for,
/// everything that `modprobe` would load is there, and stands behind what it needs.
#[test]
#[ignore = "needs modprobe and the root tree that KEEPSTATE_TEST_MODULES names: run by ./test"]
fn on_a_real_kernel_we_load_what_modprobe_loads() {
    let root = std::env::var("KEEPSTATE_TEST_MODULES").expect("KEEPSTATE_TEST_MODULES names a root tree with a kernel");
    let kernels = fs::read_dir(Path::new(&root).join("lib/modules")).expect("the tree has a kernel's modules");
    let mut compared = 0;
    for kernel in kernels.map(|entry| entry.expect("listed").path()).filter(|path| path.join("modules.dep").exists()) {
        let release = kernel.file_name().expect("a name").to_string_lossy().into_owned();
        let machine = Machine::new();
        fs::create_dir_all(machine.root().join("lib/modules")).expect("made");
        symlink(&kernel, machine.root().join("lib/modules").join(&release)).expect("linked");
        let table = fs::read_to_string(kernel.join("modules.dep")).expect("read");
        let needs: BTreeMap<&str, Vec<&str>> = table
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| (file, needs.split_whitespace().collect()))
            .collect();
        // Every eleventh: some hundred of a cloud kernel's thousand, some minutes less than all.
        for file in needs.keys().step_by(11).chain(&["kernel/fs/xfs/xfs.ko", "kernel/fs/btrfs/btrfs.ko"]) {
            if !needs.contains_key(file) {
                continue;
            }
            let name = Path::new(file).file_name().expect("a name").to_string_lossy();
            let name = name.split('.').next().expect("a name");
            let wanted = Wanted { release: release.clone(), also: vec![name.into()], ..Wanted::default() };
            let modules = resolve(&machine.host(), &wanted).expect("resolved");
            let ours: Vec<String> = modules
                .modules
                .iter()
                .map(|module| module.file.to_string_lossy().rsplit_once("/kernel/").expect("below it").1.to_owned())
                .collect();
            let mut command = Command::new("modprobe");
            command.args(["--show-depends", "-S", &release, "-C", "/dev/null", "-d", &root, name]);
            let theirs = steps(&run(&mut command));
            let theirs: Vec<&str> =
                theirs.iter().map(|(path, _)| path.rsplit_once("/kernel/").expect("below it").1).collect();
            for (place, path) in ours.iter().enumerate() {
                for need in &needs[format!("kernel/{path}").as_str()] {
                    let need = need.strip_prefix("kernel/").expect("below it");
                    let before = ours.iter().position(|one| one == need);
                    assert!(before.is_some_and(|before| before < place), "{name}: {path} before {need}: {ours:?}");
                }
            }
            for path in theirs {
                assert!(ours.iter().any(|one| one == path), "{name}: {path} is missing: {ours:?}");
            }
            compared += 1;
        }
    }
    assert!(compared > 50, "only {compared} modules were compared");
}
