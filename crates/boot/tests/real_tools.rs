//! What we write is what the tools read that everybody has: `cpio`, `grub-editenv`, `grub-script-check`.

use std::fs;
use std::path::Path;
use std::process::Command;

use boot::Host;
use boot::command_line::Arguments;
use boot::grub::{Environment, Place};
use boot::initramfs::{Compression, Contents, Source};
use keepstate_boot as boot;

/// Runs a tool that has to succeed; what it printed.
fn run(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(directory).output().expect(program);
    let (text, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {text}{complaint}");
    text.into_owned()
}

fn contents(directory: &Path) -> Contents {
    fs::write(directory.join("binary"), vec![7; 100_001]).expect("written");
    let mut contents = Contents::default();
    contents.file("init", 0o755, Source::File(directory.join("binary"))).expect("added");
    contents.file("keepstate/job", 0o600, Source::Bytes(b"job".to_vec())).expect("added");
    contents.link("bin/sh", "/init").expect("added");
    contents.device("dev/console", 0o600, 5, 1).expect("added");
    contents.directory("tmp", 0o1777).expect("added");
    contents
}

#[test]
#[ignore = "needs cpio, gzip and zstd: run by ./test"]
fn cpio_lists_and_unpacks_what_we_wrote() {
    for (compression, unpack) in
        [(Compression::None, "cat"), (Compression::Gzip, "gzip -dc"), (Compression::Zstd, "zstd -dqc")]
    {
        let directory = tempfile::tempdir().expect("a directory");
        let contents = contents(directory.path());
        contents.write_archive_file(&directory.path().join("archive"), compression).expect("written");
        let listed = run("sh", &["-c", &format!("{unpack} archive | cpio -tv --quiet -n")], directory.path());
        let lines: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        let shown: Vec<_> = lines.iter().map(|words| (words[0], words[2], words[8..].join(" "))).collect();
        let expected = [
            ("drwxr-xr-x", "bin"),
            ("lrwxrwxrwx", "bin/sh -> /init"),
            ("drwxr-xr-x", "dev"),
            ("crw-------", "dev/console"),
            ("-rwxr-xr-x", "init"),
            ("drwxr-xr-x", "keepstate"),
            ("-rw-------", "keepstate/job"),
            ("drwxrwxrwt", "tmp"),
        ];
        let expected: Vec<_> = expected.iter().map(|(mode, path)| (*mode, "0", (*path).to_owned())).collect();
        // A device's numbers stand where others have one number for their length.
        let shown: Vec<_> = shown
            .into_iter()
            .map(|(mode, owner, path)| (mode, owner, path.trim_start_matches("1970 ").to_owned()))
            .collect();
        assert_eq!(shown, expected, "{listed}");
        let unpacked = format!("mkdir out && cd out && {unpack} ../archive | cpio -id --quiet init keepstate/job");
        run("sh", &["-c", &unpacked], directory.path());
        assert_eq!(fs::read(directory.path().join("out/init")).expect("there"), vec![7; 100_001]);
        assert_eq!(fs::read(directory.path().join("out/keepstate/job")).expect("there"), b"job");
    }
}

#[test]
#[ignore = "needs grub-editenv: run by ./test"]
fn grub_editenv_makes_the_same_bytes_of_the_same_changes() {
    let directory = tempfile::tempdir().expect("a directory");
    let (ours, theirs) = (directory.path().join("ours"), directory.path().join("theirs"));
    Environment::create(&ours).expect("made");
    run("grub-editenv", &["theirs", "create"], directory.path());
    // Names that are parts of each other, values that grow and shrink, what has to be escaped.
    let names = ["next_entry", "entry", "saved_entry", "a", "next_entry2"];
    let values =
        ["", "0", "gnulinux-advanced>gnulinux-6.1.0-48-cloud-amd64", "back\\slash", "two words", "keepstate-imager"];
    let mut state: usize = 12345;
    for step in 0..80 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (name, value) = (names[(state >> 33) % names.len()], values[(state >> 45) % values.len()]);
        let mut environment = Environment::read(&ours).expect("read");
        if (state >> 20).is_multiple_of(4) {
            environment.unset(name).expect("well-formed");
            run("grub-editenv", &["theirs", "unset", name], directory.path());
        } else {
            environment.set(name, value).expect("room");
            run("grub-editenv", &["theirs", "set", &format!("{name}={value}")], directory.path());
        }
        environment.write(&ours).expect("written");
        let (one, other) = (fs::read(&ours).expect("read"), fs::read(&theirs).expect("read"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('#').to_owned();
        assert_eq!(text(&one), text(&other), "step {step}: {name}={value}");
        assert_eq!(one.len(), other.len());
    }
    let listed = run("grub-editenv", &["ours", "list"], directory.path());
    let all: Vec<_> = Environment::read(&ours).expect("read").all();
    let shown: Vec<String> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(listed.lines().collect::<Vec<_>>(), shown);
}

#[test]
#[ignore = "needs grub-script-check: run by ./test"]
fn grub_takes_our_entry() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let config = "load_env\nif [ \"${next_entry}\" ] ; then\n set default=\"${next_entry}\"\n set next_entry=\n save_env \
                  next_entry\nfi\nmenuentry 'x' {\n true\n}\nsource $prefix/custom.cfg\n";
    for (path, text) in [
        ("boot/grub/grub.cfg", config),
        ("boot/vmlinuz", "kernel"),
        ("proc/self/mountinfo", "22 1 259:2 / / rw - ext4 /dev/nvme0n1p2 rw\n"),
        ("sys/dev/block/259:2/partition", "2\n"),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
    let place = Place::find(&Host::below(root)).expect("read").expect("possible");
    let odd = r#"console=ttyS0,115200n8 "dyndbg=file a.c +p; file b.c -p" a={b};c=$d&e|f<g>h [i] * ~ x=`y` #z"#;
    for line in ["", odd] {
        let contents = contents(root);
        place
            .install(&root.join("boot/vmlinuz"), &contents, Compression::Gzip, &Arguments::parse(line))
            .expect("put into place");
        run("grub-script-check", &["boot/grub/custom.cfg"], root);
        let text = fs::read_to_string(root.join("boot/grub/custom.cfg")).expect("there");
        let broken = text.replacen("fi\n", "\n", 1);
        fs::write(root.join("broken.cfg"), broken).expect("written");
        let status = Command::new("grub-script-check").arg(root.join("broken.cfg")).output().expect("run").status;
        assert!(!status.success(), "the check has to see what is wrong");
    }
}
