//! Rules of the house that no lint knows. Each rule is a function from a file's name and text to complaints, and each
//! is shown to complain.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files longer than this have outgrown their one idea.
const LINES_MAX: usize = 1000;

type Rule = fn(path: &str, text: &str) -> Vec<String>;

const RULES: [Rule; 6] =
    [not_too_long, no_trailing_blanks, no_machine_paths, nothing_unfinished, no_unsafe_outside_sys, lints_inherited];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the workspace").into()
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Every text file that git knows, with its path from the root.
fn files() -> Vec<(String, String)> {
    // A checkout that belongs to somebody else, as in a container, is still this checkout.
    let listed = run("git", &["-c", "safe.directory=*", "ls-files", "-z"]);
    let names = listed.split_terminator('\0').filter(|name| *name != "Cargo.lock");
    // What is listed and cannot be read as text was just removed, or is data.
    names.filter_map(|name| Some((name.to_owned(), std::fs::read_to_string(root().join(name)).ok()?))).collect()
}

/// A complaint for each line that `is_wrong` says is.
fn lines(path: &str, text: &str, what: &str, is_wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let numbered = text.lines().zip(1..).filter(|(line, _)| is_wrong(line));
    numbered.map(|(line, number)| format!("{path}:{number}: {what}: {}", line.trim())).collect()
}

/// Whether `word` stands in `line` with nothing around it that would make it part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word))
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

fn not_too_long(path: &str, text: &str) -> Vec<String> {
    let count = text.lines().count();
    let complaint = format!("{path}: {count} lines; more than {LINES_MAX} want two names");
    if count > LINES_MAX { vec![complaint] } else { Vec::new() }
}

fn no_trailing_blanks(path: &str, text: &str) -> Vec<String> {
    lines(path, text, "blanks at the end", |line| line.ends_with([' ', '\t', '\r']))
}

/// Paths of the machine that the code was written on mean nothing elsewhere.
fn no_machine_paths(path: &str, text: &str) -> Vec<String> {
    // Put together here, so that this file does not complain of itself.
    let places = ["work", "farm"].map(|place| format!("/{place}/"));
    lines(path, text, "a path of one machine", |line| {
        places.iter().any(|place| {
            let before = |at: usize| line[..at].chars().next_back();
            line.match_indices(place.as_str())
                .any(|(at, _)| before(at).is_none_or(|c| !c.is_alphanumeric() && !"_.-".contains(c)))
        })
    })
}

/// What is not done is an issue, not a remark.
fn nothing_unfinished(path: &str, text: &str) -> Vec<String> {
    let words = ["TO DO", "FIX ME", "XX X"].map(|word| word.replace(' ', ""));
    let macros = ["todo", "unimplemented"].map(|name| format!("{name}!("));
    lines(path, text, "unfinished", |line| {
        words.iter().any(|word| has_word(line, word))
            || (is_rust(path) && macros.iter().any(|name| line.contains(name)))
    })
}

/// The workspace denies `unsafe`, so code that has it must say that it is allowed: only `sys` may.
fn no_unsafe_outside_sys(path: &str, text: &str) -> Vec<String> {
    if !is_rust(path) || path.starts_with("crates/sys/") {
        return Vec::new();
    }
    let lint = format!("unsafe_{}", "code");
    lines(path, text, "unsafe belongs into crates/sys", |line| line.contains(&lint))
}

fn lints_inherited(path: &str, text: &str) -> Vec<String> {
    if !path.ends_with("/Cargo.toml") || text.contains("[lints]\nworkspace = true\n") {
        return Vec::new();
    }
    vec![format!("{path}: [lints] workspace = true is missing")]
}

#[test]
fn every_file_keeps_the_rules() {
    let files = files();
    assert!(files.len() > 50, "git lists {} files", files.len());
    let complaints: Vec<String> =
        files.iter().flat_map(|(path, text)| RULES.iter().flat_map(move |rule| rule(path, text))).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn every_rule_complains() {
    let todo = format!("a {}: later", "TO DO".replace(' ', ""));
    let machine = format!("see (/{}/notes)", "work");
    let allowed = format!("#![allow(unsafe_{})]", "code");
    let stub = format!("    {}!()", "todo");
    let cases: [(Rule, &str, &str); 7] = [
        (not_too_long, "a.md", &"x\n".repeat(LINES_MAX + 1)),
        (no_trailing_blanks, "a.sh", "fine\nnot fine \n"),
        (no_machine_paths, "a.toml", &machine),
        (nothing_unfinished, "a.md", &todo),
        (nothing_unfinished, "a.rs", &stub),
        (no_unsafe_outside_sys, "crates/flash/src/lib.rs", &allowed),
        (lints_inherited, "crates/new/Cargo.toml", "[package]\n"),
    ];
    for (rule, path, text) in cases {
        assert_eq!(rule(path, text).len(), 1, "{path}: {text}");
    }
    let fine: [(Rule, &str, &str); 4] = [
        (no_machine_paths, "a.md", "target/work/x and a-homework/y"),
        (nothing_unfinished, "a.sh", "mktemp /tmp/keepstate.XXXXXX"),
        (no_unsafe_outside_sys, "crates/sys/src/lib.rs", &allowed),
        (lints_inherited, "Cargo.toml", "[workspace]\n"),
    ];
    for (rule, path, text) in fine {
        assert_eq!(rule(path, text), Vec::<String>::new());
    }
}

/// The crates of ARCHITECTURE.md's table, top to bottom, each with what it may use.
fn allowed(architecture: &str) -> Vec<(String, Vec<String>)> {
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let rows = architecture.lines().filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        Some((quoted(cells.first()?).pop()?, quoted(cells.last()?)))
    })
    .collect()
}

/// The workspace's crates by their folders' names, each with those of its dependencies that are ours (not those of its
/// tests: a test may look down from anywhere).
fn actual() -> BTreeMap<String, Vec<String>> {
    let metadata = run(env!("CARGO"), &["metadata", "--no-deps", "--offline", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("JSON");
    let folder = |path: &serde_json::Value| {
        let path = Path::new(path.as_str().expect("a path"));
        let folder = if path.ends_with("Cargo.toml") { path.parent().expect("a folder") } else { path };
        folder.file_name().expect("a name").to_string_lossy().into_owned()
    };
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let ours = dependencies.iter().filter(|one| one["path"].is_string() && one["kind"] != "dev");
            (folder(&package["manifest_path"]), ours.map(|one| folder(&one["path"])).collect())
        })
        .collect()
}

/// What contradicts the table: a crate that it lacks, an arrow that it does not allow, or one that points up.
fn arrows(allowed: &[(String, Vec<String>)], actual: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut complaints = Vec::new();
    let row = |name: &str| allowed.iter().position(|(row, _)| row == name);
    for (name, uses) in actual {
        let Some(place) = row(name) else {
            complaints.push(format!("{name} has no row in the table"));
            continue;
        };
        for used in uses.iter().filter(|used| !allowed[place].1.contains(used)) {
            complaints.push(format!("{name} uses {used}, which its row does not allow"));
        }
    }
    for (place, (name, uses)) in allowed.iter().enumerate() {
        if !actual.contains_key(name) {
            complaints.push(format!("{name} has a row and is no crate"));
        }
        for used in uses.iter().filter(|used| row(used).is_none_or(|below| below <= place)) {
            complaints.push(format!("{name} may use {used}, which does not stand below it"));
        }
    }
    complaints
}

#[test]
fn arrows_only_point_down() {
    let architecture = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (allowed, actual) = (allowed(&architecture), actual());
    assert!(actual.len() > 4, "{actual:?}");
    let complaints = arrows(&allowed, &actual);
    assert!(complaints.is_empty(), "ARCHITECTURE.md:\n{}\n", complaints.join("\n"));
    for name in actual.keys() {
        let place = if root().join("crates").join(name).is_dir() { format!("crates/{name}") } else { name.clone() };
        assert!(architecture.contains(&format!("\n### `{place}`")), "ARCHITECTURE.md has no heading ### `{place}`");
    }
}

#[test]
fn an_arrow_that_points_up_is_seen() {
    let table = "| crate | what | may use |\n|---|---|---|\n| `top` | x | `low`, `mid` |\n| `mid` | x | `low` |\n| `low` | x | – |\n";
    let graph = |arrows: &[(&str, &[&str])]| {
        let arrows = arrows.iter().map(|(name, uses)| ((*name).into(), uses.iter().map(|&used| used.into()).collect()));
        arrows.collect::<BTreeMap<String, Vec<String>>>()
    };
    let good: [(&str, &[&str]); 3] = [("top", &["low", "mid"]), ("mid", &["low"]), ("low", &[])];
    assert_eq!(arrows(&allowed(table), &graph(&good)), Vec::<String>::new());
    let bad: [(&str, &[&str]); 4] = [("top", &[]), ("mid", &["top"]), ("low", &[]), ("new", &[])];
    let complaints = arrows(&allowed(table), &graph(&bad));
    assert_eq!(complaints, ["mid uses top, which its row does not allow", "new has no row in the table"]);
    let upside_down = "| `low` | x | `top` |\n| `top` | x | – |\n";
    let complaints = arrows(&allowed(upside_down), &graph(&[("low", &["top"]), ("top", &[])]));
    assert_eq!(complaints, Vec::<String>::new());
    let circle = "| `a` | x | `b` |\n| `b` | x | `a` |\n";
    let complaints = arrows(&allowed(circle), &graph(&[("a", &["b"]), ("b", &[])]));
    assert_eq!(complaints, ["b may use a, which does not stand below it"]);
}
