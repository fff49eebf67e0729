//! Our entry in `custom.cfg`, between two marks; everything else in that file belongs to somebody else.

use crate::command_line::Arguments;

/// The entry's id: what `next_entry` is set to.
pub const ENTRY: &str = "keepstate-imager";
const BEGIN: &str = "### BEGIN keepstate ###";
const END: &str = "### END keepstate ###";

/// The text with our entry in it, once.
///
/// `$prefix` is where GRUB's own files are, device and all, so nothing has to be searched for; kernel and imager stand
/// there. When either cannot be loaded the machine restarts instead of waiting at a menu for a person: the booking is
/// used up by then, so the default entry comes.
pub(super) fn with_entry(text: &str, directory: &str, arguments: &Arguments) -> String {
    let mut text = without_entry(text);
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    let words: Vec<String> = arguments.0.iter().map(|argument| quoted(&argument.to_string())).collect();
    let words = words.join(" ");
    text + &format!(
        "{BEGIN}\n\
         menuentry 'Keepstate imager' --id {ENTRY} --unrestricted {{\n\
         \tif linux \"$prefix/{directory}/vmlinuz\" {words} ; then\n\
         \t\tif initrd \"$prefix/{directory}/imager.img\" ; then\n\
         \t\t\tboot\n\
         \t\tfi\n\
         \tfi\n\
         \treboot\n\
         }}\n\
         {END}\n"
    )
}

/// The text without it.
pub(super) fn without_entry(text: &str) -> String {
    let mut is_ours = false;
    let others = text.split_inclusive('\n').filter(|line| {
        let line = line.trim_end();
        is_ours |= line == BEGIN;
        let keep = !is_ours;
        is_ours &= line != END;
        keep
    });
    others.collect()
}

/// One word for GRUB's scripts, which read a word in single quotes as it is. What holds a single quote was refused when
/// the command line was made.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_entry_comes_once_and_goes_without_a_trace() {
        let arguments = Arguments::parse("console=ttyS0 \"dyndbg=file x +p\" a=$b;{c}");
        for text in ["", "menuentry 'mine' { true }\n"] {
            let once = with_entry(text, "keepstate", &arguments);
            let twice = with_entry(&once, "keepstate", &arguments);
            assert_eq!(once, twice);
            assert!(once.starts_with(text));
            assert!(once.contains("'console=ttyS0' 'dyndbg=file x +p' 'a=$b;{c}' ;"), "{once}");
            assert_eq!(without_entry(&once), text);
        }
    }

    #[test]
    fn what_stands_behind_ours_stays() {
        let text = format!("a\n{BEGIN}\nx\n{END}\nb");
        assert_eq!(without_entry(&text), "a\nb");
        assert_eq!(without_entry(&format!("a\n{BEGIN}\nnever ended\n")), "a\n");
        assert!(with_entry("a", "keepstate", &Arguments::default()).starts_with("a\n### BEGIN"));
    }
}
