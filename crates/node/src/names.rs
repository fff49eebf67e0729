//! Users and groups by number, in a table like `/etc/passwd`.

/// The first name that has this number.
pub(crate) fn of(table: &str, number: u32) -> Option<String> {
    let mut lines = table.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(2).is_some_and(|field| field.parse() == Ok(number)))?;
    line.first().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_its_first_name() {
        let table = "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nbroken\nalice:x:1000:\n";
        assert_eq!(
            (of(table, 0).as_deref(), of(table, 1000).as_deref(), of(table, 7)),
            (Some("root"), Some("alice"), None)
        );
    }
}
