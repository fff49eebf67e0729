//! The text files that facts come from. Lines that make no sense are left out.

use std::collections::BTreeMap;

/// `/etc/os-release`: assignments as a shell reads them.
pub(crate) fn os_release(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .map(|(key, value)| (key.to_owned(), unquoted(value)))
        .collect()
}

/// One value without its quotes and escapes.
fn unquoted(value: &str) -> String {
    let inner = |quote| value.strip_prefix(quote).and_then(|value: &str| value.strip_suffix(quote));
    if let Some(value) = inner('\'') {
        return value.to_owned();
    }
    let mut chars = inner('"').unwrap_or(value).chars();
    let mut plain = String::new();
    while let Some(next) = chars.next() {
        plain.extend(if next == '\\' { chars.next() } else { Some(next) });
    }
    plain
}

/// `/etc/fstab` without comments and empty lines, fields separated by one space.
pub(super) fn fstab(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// `/etc/passwd` and `/etc/group`: the first field is the name, the third the number.
pub fn ids(text: &str) -> BTreeMap<String, u32> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        Some((name.to_owned(), number.parse().ok()?)).filter(|(name, _)| !name.is_empty())
    };
    text.lines().filter_map(entry).collect()
}

/// `/var/lib/dpkg/status`: packages that are installed, whatever else is asked of them. Those of a foreign architecture
/// are named `name:architecture` when another of the name is there.
pub fn dpkg_status(text: &str) -> BTreeMap<String, String> {
    let mut packages = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let field = |wanted: &str| {
            let mut fields = paragraph.lines().filter_map(|line| line.split_once(": "));
            fields.find(|(name, _)| *name == wanted).map(|(_, value)| value.trim())
        };
        let (Some(name), Some(version), Some(status)) = (field("Package"), field("Version"), field("Status")) else {
            continue;
        };
        if status.ends_with(" installed") {
            let key = match (packages.contains_key(name), field("Architecture")) {
                (true, Some(architecture)) => format!("{name}:{architecture}"),
                _ => name.to_owned(),
            };
            packages.insert(key, version.to_owned());
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<T: Clone>(pairs: &[(&str, T)]) -> BTreeMap<String, T> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    }

    #[test]
    fn os_release_is_read_as_a_shell_reads_it() {
        let text = "# comment\nID=debian\nNAME=\"Debian \\\"GNU\\\"\"\nEMPTY=\nQUOTED='a \\ b'\nnonsense\n=x\na b=c\n";
        let expected = [("ID", "debian"), ("NAME", "Debian \"GNU\""), ("EMPTY", ""), ("QUOTED", "a \\ b")]
            .map(|(k, v)| (k, v.to_owned()));
        assert_eq!(os_release(text), map(&expected));
    }

    #[test]
    fn fstab_loses_comments_and_spacing() {
        assert_eq!(fstab("# c\n\nUUID=1  /\text4 defaults 0 1\n"), ["UUID=1 / ext4 defaults 0 1"]);
    }

    #[test]
    fn ids_are_the_third_field() {
        assert_eq!(
            ids("root:x:0:0:root:/root:/bin/sh\n:x:1:\nbad\nbig:x:99999999999:\nwheel:x:10:\n"),
            map(&[("root", 0), ("wheel", 10)])
        );
    }

    #[test]
    fn only_installed_packages_count() {
        let status = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0-1\nDescription: x\n y: z\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 2\n\n\
                      Package: held\nStatus: hold ok installed\nVersion: 3\n\n\
                      Package: a\nStatus: install ok installed\nArchitecture: i386\nVersion: 1.0-1\n";
        let expected = [("a", "1.0-1"), ("a:i386", "1.0-1"), ("held", "3")].map(|(k, v)| (k, v.to_owned()));
        assert_eq!(dpkg_status(status), map(&expected));
    }
}
