//! The small Debian.

use std::time::Duration;

use lab::{Baker, Bus, Disk, Firmware, Machine, Options, Recipe, say};

/// Five times what it takes on an idle machine.
const UP: Duration = Duration::from_mins(2);

fn root(recipe: &Recipe) -> Disk {
    let baker = Baker::built().expect("a baker");
    let image = baker.bake(&recipe.tree().expect("a tree"), &Options::debian()).expect("a disk");
    Disk::image("root", &image)
}

fn up(machine: &mut Machine) {
    machine.power_on().expect("on");
    let time = machine.wait_until_up(UP).expect("up");
    say(&format!("answers after {:.1} s", time.as_secs_f64()));
    // Fails when a unit did.
    let state = machine.sh_within("systemctl is-system-running --wait; systemctl --failed --no-legend", UP);
    assert_eq!(state.expect("an answer"), "running");
    say(&format!("running after {:.1} s", machine.on_for().as_secs_f64()));
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_is_running_and_reboots_and_ends_in_order() {
    let data = Disk::ext4("data", 64 << 20, "data");
    let mut machine = Machine::new("debian-bios").expect("a machine").disk(root(&Recipe::debian(1))).disk(data);
    up(&mut machine);
    machine.wait_for("lab: debian 1 is up", UP).expect("it says so on its console");
    machine.sh("echo kept >/data/marker; sync").expect("written");
    let boot_id = machine.boot_id().expect("a boot id");
    let begin = std::time::Instant::now();
    machine.tell("systemctl reboot").expect("told");
    machine.wait_for_other_boot(&boot_id, UP).expect("another boot");
    say(&format!("rebooted in {:.1} s", begin.elapsed().as_secs_f64()));
    assert_eq!(machine.sh("cat /data/marker").expect("an answer"), "kept");
    machine.shut_down(UP).expect("off");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_starts_by_uefi_from_nvme() {
    let mut machine = Machine::new("debian-uefi")
        .expect("a machine")
        .firmware(Firmware::Uefi)
        .bus(Bus::Nvme)
        .disk(root(&Recipe::debian(2)));
    up(&mut machine);
    assert_eq!(
        machine.sh("cat /etc/version; . /etc/os-release; echo $ID$IMAGE_VERSION").expect("an answer"),
        "2\ndebian2"
    );
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_with_an_ssh_server_lets_the_lab_in() {
    let recipe = Recipe::debian(1).with("openssh-server");
    let mut machine = Machine::new("debian-ssh").expect("a machine").forward(22).disk(root(&recipe));
    up(&mut machine);
    assert_eq!(machine.ssh("cat /etc/hostname", UP).expect("an answer").trim(), "debian");
    machine.ssh("exit 3", UP).expect_err("its exit code is not 0");
}

#[test]
#[ignore = "needs QEMU and root: run by ./test"]
fn a_debian_that_is_up_comes_back_from_a_snapshot() {
    let mut machine = Machine::new("debian-snapshot").expect("a machine").disk(root(&Recipe::debian(1)));
    up(&mut machine);
    machine.snapshot("ready").expect("kept");
    machine.cut_power();
    machine.power_on_from("ready").expect("on");
    let time = machine.wait_until_up(UP).expect("up");
    say(&format!("up from a snapshot after {:.2} s", time.as_secs_f64()));
    assert_eq!(machine.sh("systemctl is-system-running").expect("an answer"), "running");
}
