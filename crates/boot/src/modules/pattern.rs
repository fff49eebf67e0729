//! The patterns of `modules.alias`: `pci:v00001D0Fd0000EC2*sv*sd*bc*sc*i*`.

use std::iter;

/// Whether all of `text` matches `pattern`: `*`, `?`, `[a-f]`, `[!0]`, everything else itself.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at_pattern, mut at_text) = (0, 0);
    // Where the last star stands, and how much it has eaten: only the last one ever has to be tried again.
    let mut star: Option<(usize, usize)> = None;
    while at_text < text.len() {
        if pattern.get(at_pattern) == Some(&b'*') {
            star = Some((at_pattern, at_text));
            at_pattern += 1;
        } else if let Some(length) = one(&pattern[at_pattern..], text[at_text]) {
            at_pattern += length;
            at_text += 1;
        } else if let Some((star_at, eaten)) = star {
            star = Some((star_at, eaten + 1));
            (at_pattern, at_text) = (star_at + 1, eaten + 1);
        } else {
            return false;
        }
    }
    pattern[at_pattern..].iter().all(|byte| *byte == b'*')
}

/// How long the beginning of `pattern` is that matches `byte`, if it does.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern.first()? {
        b'?' => Some(1),
        b'[' => class(pattern, byte),
        same => (*same == byte).then_some(1),
    }
}

fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let is_negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let begin = if is_negated { 2 } else { 1 };
    // A bracket that comes first is one of the class.
    let Some(length) = pattern.get(begin + 1..).and_then(|rest| rest.iter().position(|byte| *byte == b']')) else {
        return (byte == b'[').then_some(1);
    };
    let end = begin + 1 + length;
    let mut members = &pattern[begin..end];
    let mut has = false;
    while let [first, rest @ ..] = members {
        if let [b'-', last, after @ ..] = rest {
            has |= (*first..=*last).contains(&byte);
            members = after;
        } else {
            has |= *first == byte;
            members = rest;
        }
    }
    (has != is_negated).then_some(end + 1)
}

/// A module's or alias's name in the form that all tables are compared in: `-` and `_` are the same outside brackets.
pub(super) fn normal(name: &str) -> String {
    let mut in_class = false;
    let mut characters = name.chars();
    iter::from_fn(|| {
        let character = characters.next()?;
        in_class = (in_class || character == '[') && character != ']';
        Some(if character == '-' && !in_class { '_' } else { character })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_the_shells_do() {
        for (pattern, text) in [
            ("virtio:d00000002v*", "virtio:d00000002v00001AF4"),
            ("pci:v*d*sv*sd*bc01sc08i02*", "pci:v00001D0Fd00008061sv00001D0Fsd00008061bc01sc08i02"),
            ("a*b*c", "axxbyybzzc"),
            ("*", ""),
            ("a?c", "abc"),
            ("x[0-9a-f]y", "xey"),
            ("x[!0-9]y", "xey"),
            ("x[]]y", "x]y"),
            ("x[-a]y", "x-y"),
            ("x[y", "x[y"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("virtio:d00000002v*", "virtio:d00000001v00001AF4"),
            ("a*b*c", "axxbyybzz"),
            ("", "a"),
            ("a", ""),
            ("a?c", "ac"),
            ("x[0-9]y", "xey"),
            ("x[!e]y", "xey"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn names_are_compared_without_regard_to_their_dashes() {
        assert_eq!(normal("nls_iso8859-1"), "nls_iso8859_1");
        assert_eq!(normal("usb:v0-[0-9]-x"), "usb:v0_[0-9]_x");
    }

    proptest! {
        #[test]
        fn no_pattern_is_too_odd(pattern in "[a*?\\[\\]!^-]{0,12}", text in "[a\\[\\]-]{0,12}") {
            matches(&pattern, &text);
        }

        #[test]
        fn every_text_matches_itself_with_stars_put_in(text in "[a-z0-9:]{0,20}", at in 0_usize..20) {
            let at = at.min(text.len());
            let pattern = format!("{}*{}", &text[..at], &text[at..]);
            prop_assert!(matches(&pattern, &text));
        }
    }
}
