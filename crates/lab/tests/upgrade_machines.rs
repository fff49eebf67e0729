//! A real server with a database changes its OS in place, and comes back.

use std::path::Path;
use std::time::Instant;

use lab::http::Trouble;
use lab::server::{PREPARED, Server, UP, status, through_a_restart};
use lab::{Bus, Firmware, Machine, Options, Recipe, Versions, say, versions};

/// Two versions, and a machine that runs the first, without a database and with little memory.
fn plain(name: &str) -> (Versions, Machine) {
    let recipes = [&Recipe::debian(1), &Recipe::debian(2)];
    let versions = Versions::make("debian", recipes, &Options::debian()).expect("two versions");
    let mut machine = versions.start(name).expect("a machine");
    machine.sh_within("until mountpoint -q /data; do systemctl start data.mount; sleep 1; done", UP).expect("mounted");
    (versions, machine)
}

/// What makes the node itself for those who know it.
fn identity(machine: &mut Machine) -> String {
    let command = "cat /etc/machine-id /etc/hostname; hostname; stat -c '%a %U %n' /etc/ssh/ssh_host_*; \
                   sha256sum /etc/ssh/ssh_host_* /root/.ssh/authorized_keys";
    machine.sh(command).expect("an answer")
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_becomes_the_next_version_in_place_and_comes_back() {
    let mut server = Server::start("upgrade-takeover", 0).expect("a server");
    server.machine.sh("echo node7 >/etc/hostname; hostname node7; touch /data/prove; sync").expect("written");
    // An owner who has systemd watched: the imager finds its watchdog armed.
    let watched = "modprobe softdog && mkdir -p /etc/systemd/system.conf.d && \
                   printf '[Manager]\\nRuntimeWatchdogSec=60\\n' >/etc/systemd/system.conf.d/watched.conf && \
                   systemctl daemon-reexec && grep -qx active /sys/class/watchdog/watchdog0/state";
    server.machine.sh_within(watched, UP).expect("systemd keeps a watchdog");
    let known_as = identity(&mut server.machine);
    say(&server.node("preflight", 2).expect("nothing is in the way"));
    let begin = Instant::now();
    say(&server.node("prepare", 2).expect("prepared"));
    say(&format!("prepared in {:.1} s", begin.elapsed().as_secs_f64()));
    assert!(server.client.longest_outage(begin).is_none(), "it serves meanwhile");
    assert_eq!(server.version().expect("a version"), "1", "prepared, it is still the old one");

    let command = format!("{} --yes", server.versions.command("upgrade", 2));
    let outage = server.through_a_restart(&command).expect("upgraded");
    say(&format!("the database did not answer for {:.1} s", outage.as_secs_f64()));
    assert_eq!(server.version().expect("a version"), "2");
    let status = server.status("passed its trial").expect("a verdict");
    say(&status);
    let log = server.machine.sh("cat /data/keepstate/imager.log").expect("an answer");
    say(&log);
    assert!(log.contains("(Software Watchdog) was armed and is taken over: 60 s"), "{log}");
    assert!(status.contains("kept of the old root: /etc/machine-id"), "{status}");
    assert_eq!(identity(&mut server.machine), known_as, "it is the same node");
    let proof = "test -s /data/digest.stop && cmp /data/digest.stop /data/digest.start";
    server.machine.sh(proof).expect("every data file is at the start what it was at the stop");
    server.has_its_rows().expect("no row is lost that was promised");

    // The trial OS fills its disk with what must not be left when the old one comes back.
    server.machine.sh_within("dd if=/dev/urandom of=/junk bs=1M count=64 conv=fsync 2>&1", UP).expect("junk");
    server.through_a_restart("keepstate node rollback --yes").expect("rolled back");
    assert_eq!(server.version().expect("a version"), "1", "the old OS is back");
    assert!(server.machine.try_sh("test -e /junk", UP).expect("an answer").code != 0, "and the junk is gone");
    assert_eq!(identity(&mut server.machine), known_as, "and it is still the same node");
    say(&server.status("rolled back").expect("a verdict"));
    server.has_its_rows().expect("no row is lost that was promised");
}

/// Upgrades a server whose database is on the data disk, by one way in, with one firmware and one bus: no row is lost, and
/// every data file is at the start what it was at the stop.
fn a_server_keeps_its_data(name: &str, entry: &str, firmware: Firmware, bus: Bus) {
    let mut server = Server::start_as(name, 0, |machine| machine.firmware(firmware).bus(bus)).expect("a server");
    // Who comes by kexec goes by it, too: systemd starts a loaded kernel at the end of its shutdown by itself.
    let exit = if entry == "kexec" { "kexec" } else { "firmware" };
    server.configure(&format!("entry = \"{entry}\"\nexit = \"{exit}\"")).expect("configured");
    server.machine.sh("! command -v kexec").expect("it has no tools for that");
    server.watch_data().expect("watched");
    let log = server.upgrade().expect("upgraded, its data as they were");
    assert!(log.contains("by BootEntry") == (entry == "boot-entry") && log.contains("by Kexec") == (entry == "kexec"));
    assert_eq!(log.contains("next: boot/vmlinuz-"), entry == "kexec", "{log}");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_server_keeps_its_data_by_a_grub_entry_on_nvme() {
    a_server_keeps_its_data("upgrade-entry-nvme", "boot-entry", Firmware::Bios, Bus::Nvme);
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_server_keeps_its_data_by_takeover_with_uefi() {
    a_server_keeps_its_data("upgrade-takeover-uefi", "takeover", Firmware::Uefi, Bus::Virtio);
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_server_keeps_its_data_by_kexec_with_uefi_on_nvme() {
    a_server_keeps_its_data("upgrade-kexec-uefi", "kexec", Firmware::Uefi, Bus::Nvme);
}

/// An operator comes into the imager with the key that lets him into the node, looks, and stops it before the first write.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn an_operator_looks_into_the_imager_and_stops_it() {
    let mut server = Server::start("upgrade-operator", 0).expect("a server");
    // On a fresh kernel the card has no driver yet, and no address: a DHCP server lends it one.
    server.configure("entry = \"boot-entry\"").expect("configured");
    server.node("prepare", 2).expect("prepared");
    let boot_id = server.machine.boot_id().expect("a boot id");
    let command = format!("{} --yes", server.versions.command("upgrade", 2));
    let machine = &mut server.machine;
    machine.sh_within(&command, PREPARED).expect("under way");
    machine.wait_for("is PID 1", PREPARED).expect("the imager");
    machine.throttle("root", 64 << 10).expect("slow, so that nothing is written yet");
    machine.wait_for("what the job names is mounted", UP).expect("a worker at work");
    let begin = Instant::now();
    let seen = loop {
        match machine.ssh("status", UP) {
            Ok(seen) => break seen,
            Err(error) => assert!(begin.elapsed() < UP, "nobody gets in: {error}"),
        }
    };
    say(&seen);
    assert!(seen.contains("not written to"), "{seen}");
    let log = machine.ssh("log", UP).expect("the log");
    assert!(log.contains("on a fresh kernel, by BootEntry"), "{log}");
    assert!(machine.ssh("sh", UP).is_err(), "there is no shell");
    say(&machine.ssh("abort", UP).expect("stopped"));
    machine.throttle("root", 0).expect("fast");
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    let status = server.status("failed; the old OS is as it was").expect("a verdict");
    assert!(status.contains("an operator asked for it"), "{status}");
    assert_eq!(server.version().expect("a version"), "1");
    server.has_its_rows().expect("no row is lost that was promised");
}

/// In the trial OS: fills the disk with what must not be left when the old one comes back, and says no.
const SAYS_NO: &str = "#!/bin/sh\ndd if=/dev/urandom of=/junk bs=1M count=64 conv=fsync 2>/dev/null\nrm -rf /usr/share/doc /boot/grub\n\
                       sync\nsleep 5\necho not well; exit 1\n";

/// The disk is read from outside twice: when the imager has let go of the old root, and when it has put it back.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_failed_trial_puts_the_old_disk_back_bit_for_bit() {
    let (versions, mut machine) = plain("upgrade-failed-trial");
    machine.sh("mkdir -p /etc/keepstate/hooks/trial.d; df -h / >/root/notes").expect("made");
    machine.write_file("/etc/keepstate/hooks/trial.d/10-no", SAYS_NO.as_bytes()).expect("written");
    machine.sh("chmod +x /etc/keepstate/hooks/trial.d/10-no").expect("executable");
    machine.sh_within(&versions.command("prepare", 2), PREPARED).expect("prepared");
    machine.sh_within(&format!("{} --yes", versions.command("upgrade", 2)), PREPARED).expect("under way");
    machine.wait_for("the old root is free", PREPARED).expect("the imager");
    let (before, after) = (machine.folder().join("root.before"), machine.folder().join("root.after"));
    machine.read_disk_paused("root", &before).expect("read");
    machine.wait_for("lab: debian 2 is up", PREPARED).expect("the new OS");
    // What would be a restart out of the imager ends the machine, before the old OS writes again.
    machine.wait_for("the old root is free", PREPARED).expect("the imager again");
    machine.end_at_restart().expect("QEMU does as it is told");
    machine.wait_for_power_off(PREPARED).expect("the imager leaves");
    machine.read_disk("root", &after).expect("read");
    assert!(versions::begins_alike(&before, &after).expect("compared"), "the disk is not the old one");
    assert!(!versions::begins_alike(&after, &versions.v2).expect("compared"), "it was never another");
    machine.power_on().expect("on");
    machine.wait_until_up(UP).expect("up");
    machine.sh_within("until mountpoint -q /data; do sleep 1; done", UP).expect("mounted");
    let status = status(&mut machine, "rolled back to the old OS").expect("a verdict");
    say(&status);
    assert!(status.contains("10-no ended with code 1: not well"), "{status}");
    assert_eq!(machine.sh("cat /etc/version").expect("an answer"), "1");
    for file in [before, after] {
        std::fs::remove_file(&file).expect("removed");
    }
}

/// A file of the image that both versions have, written to while the old OS ends: no preparing helps, it has to be fetched in the
/// outage. Once: what one end has changed is staged by who prepares after it.
const LATE: &str = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n\
                    ExecStop=/bin/dd if=/dev/urandom of=/usr/share/payload/000 bs=64k count=1 conv=notrunc,fsync\n";

/// So long after its start an imager that nobody answers gives up.
const SHORT: u32 = 25;
/// Longer than the patience of one transfer, so that it is the transfer that ends.
const LONG: u32 = 300;

/// Nobody says no: it is the deadline that ends it.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn an_upgrade_whose_store_stalls_comes_back_into_the_old_os() {
    comes_back_untouched("upgrade-stalled", SHORT, "time is over before the first write", |versions, _| {
        versions.store.inject("payload", Trouble::Stalled { after: 0 }, None);
    });
}

mod long {
    use super::*;

    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn an_upgrade_whose_store_is_overloaded_comes_back_into_the_old_os() {
        comes_back_untouched("upgrade-overloaded", LONG, "503", |versions, _| {
            versions.store.inject("payload", Trouble::Status(503), None);
        });
    }

    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn an_upgrade_whose_store_gives_wrong_bytes_comes_back_into_the_old_os() {
        comes_back_untouched("upgrade-wrong", LONG, "is not what the manifest describes", |versions, _| {
            versions.store.inject("payload", Trouble::Corrupt { every: 4096 }, None);
        });
    }

    /// Nobody says no, and nobody answers.
    #[test]
    #[ignore = "needs QEMU and root: run by ./test --long"]
    fn an_upgrade_whose_cable_is_pulled_comes_back_into_the_old_os() {
        comes_back_untouched("upgrade-cable", SHORT, "time is over before the first write", |_, machine| {
            machine.cut_link().expect("the cable is pulled");
        });
    }
}

/// An upgrade that meets trouble when the OS is on its way down ends in the old OS, with the reason, whatever the store does.
fn comes_back_untouched(name: &str, deadline: u32, says: &str, trouble: impl FnOnce(&Versions, &mut Machine)) {
    let (versions, mut machine) = plain(name);
    let configure = format!("printf '[imager]\\ndeadline-seconds = {deadline}\\n' >>/etc/keepstate/node.toml");
    machine.sh(&configure).expect("configured");
    machine.write_file("/etc/systemd/system/late.service", LATE.as_bytes()).expect("written");
    machine.sh("systemctl daemon-reload && systemctl start late").expect("started");
    machine.sh_within(&versions.command("prepare", 2), PREPARED).expect("prepared");
    let boot_id = machine.boot_id().expect("a boot id");
    machine.sh_within(&format!("{} --yes", versions.command("upgrade", 2)), PREPARED).expect("on its way down");
    // Only now: what the agent itself takes up before, it gets.
    trouble(&versions, &mut machine);
    machine.wait_for_other_boot(&boot_id, PREPARED).expect("another boot");
    let status = status(&mut machine, "failed; the old OS is as it was").expect("a verdict");
    assert_eq!(machine.sh("cat /etc/version").expect("an answer"), "1", "{says}: {status}");
    let log = machine.sh("cat /data/keepstate/imager.log").expect("an answer");
    assert!(log.contains(says), "{says}: {log}\n{status}");
    assert!(log.contains("the disk: Boots; next: Leave") && !log.contains("writing, "), "{says}: {log}");
}

/// The order to restart hangs, as one does that somebody holds up, and who gave it dies, who would take back what is armed when he is
/// ended in order; and then the machine is switched off instead.
#[test]
#[ignore = "needs QEMU and root: run by ./test --long"]
fn a_debian_that_is_switched_off_instead_of_restarted_is_not_flashed() {
    let (versions, mut machine) = plain("upgrade-poweroff");
    let hang = "#!/bin/sh\ncase $* in *reboot*) echo armed >/data/last; exec sleep 1000 ;; esac\nexec /root/systemctl \"$@\"\n";
    machine.write_file("/root/hang", hang.as_bytes()).expect("written");
    let put = "cp /usr/bin/systemctl /root && chmod +x /root/hang && mount -o bind /root/hang /usr/bin/systemctl";
    machine.sh(put).expect("it hangs");
    machine.sh_within(&versions.command("prepare", 2), PREPARED).expect("prepared");
    machine.tell(&format!("{} --yes", versions.command("upgrade", 2))).expect("told");
    machine.sh_within("until grep armed /data/last; do sleep 1; done", PREPARED).expect("armed");
    machine.sh("kill -9 $(pidof keepstate)").expect("it dies");
    machine.sh("test -x /run/initramfs/shutdown").expect("it would be given the machine");
    machine.tell("/root/systemctl poweroff").expect("told");
    machine.wait_for("is PID 1, called to power off", PREPARED).expect("the imager");
    machine.wait_for("the job is done at a restart only: nothing is touched", UP).expect("it says so");
    machine.wait_for_power_off(UP).expect("off");
    let after = machine.folder().join("root.after");
    machine.read_disk("root", &after).expect("read");
    let differ = |one: &Path| versions::differing(one, &versions.v2).expect("compared");
    let (apart, left) = (differ(&versions.v1), differ(&after));
    assert!(apart.iter().all(|chunk| left.contains(chunk)), "there is something of the new OS");
    machine.power_on().expect("on");
    machine.wait_until_up(UP).expect("up");
    machine.sh_within("until mountpoint -q /data; do sleep 1; done", UP).expect("mounted");
    say(&status(&mut machine, "failed; the old OS is as it was").expect("a verdict"));
    assert_eq!(machine.sh("cat /etc/version").expect("an answer"), "1");
    std::fs::remove_file(&after).expect("removed");
}

/// With nothing kept, the disk is the image: read from outside, before it boots for the first time.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn the_flashed_disk_is_the_image_byte_for_byte() {
    let (versions, mut machine) = plain("upgrade-exact");
    let fresh = "printf '[identity]\\npolicy = \"fresh\"\\n' >>/etc/keepstate/node.toml";
    machine.sh(fresh).expect("configured");
    // What would be a restart ends the machine: nothing boots before the disk is read.
    machine.end_at_restart().expect("QEMU does as it is told");
    machine.sh_within(&format!("{} --yes", versions.command("upgrade", 2)), PREPARED).expect("under way");
    machine.wait_for_power_off(PREPARED).expect("the imager leaves");
    let root = machine.folder().join("root.now");
    machine.read_disk("root", &root).expect("read");
    assert!(versions::begins_alike(&root, &versions.v2).expect("compared"), "the disk is not the image");
    assert!(!versions::begins_alike(&root, &versions.v1).expect("compared"), "the images do not differ");
    let log = machine.console_log().to_owned();
    assert!(contains(&log, "next: Leave"), "it was the imager that left");
    std::fs::remove_file(&root).expect("removed");
}

fn contains(path: &Path, text: &str) -> bool {
    String::from_utf8_lossy(&std::fs::read(path).expect("a log")).contains(text)
}

/// What a root writes as it runs is no drift; what somebody changes is named.
#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_committed_root_is_its_image_until_somebody_changes_it() {
    let (versions, mut machine) = plain("upgrade-verify");
    machine.sh_within(&versions.command("prepare", 2), PREPARED).expect("prepared");
    through_a_restart(&mut machine, &format!("{} --yes", versions.command("upgrade", 2))).expect("upgraded");
    status(&mut machine, "passed its trial").expect("a verdict");
    machine.sh("keepstate node commit --yes && test ! -e /etc/keepstate/place.json").expect("committed");
    let verify = "keepstate node verify --bandwidth 0 --progress none";
    let said = machine.sh_within(verify, PREPARED).expect("no drift");
    say(&said);
    assert!(said.contains("no drift: package files are the image's"), "{said}");
    assert!(!said.contains("/usr/"), "{said}");
    machine.sh("echo x >>/etc/motd").expect("changed");
    let said = machine.sh_within(verify, PREPARED).expect("configuration is no drift");
    assert!(said.contains("/etc/motd") && said.contains("configuration that differs"), "{said}");
    machine.sh("echo x >>/usr/bin/ldd; rm /usr/bin/tzselect").expect("changed");
    let answer = machine.try_sh(verify, PREPARED).expect("an answer");
    say(&answer.output);
    assert_eq!(answer.code, 1, "{}", answer.output);
    for says in ["/usr/bin/ldd (libc-bin)", "/usr/bin/tzselect (libc-bin)", "this node has drifted from debian@2"] {
        assert!(answer.output.contains(says), "{says}: {}", answer.output);
    }
}
