//! A map as a picture: for each of its fullest files a strip from its first byte to its last, the darker the more of it is
//! cached there.

use std::fmt::Write;

use crate::map::{File, Map};

/// Parts of a strip, each with one shade.
const PARTS: u64 = 256;
/// Width of a part and height of a strip, in pixels.
const PART_WIDTH: u64 = 3;
const STRIP_HEIGHT: u64 = 14;
/// From one strip to the next: the name stands above it.
const ROW_HEIGHT: u64 = 40;
const MARGIN: u64 = 16;
const HEAD_HEIGHT: u64 = 62;
/// Characters of a name that fit above a strip.
const NAME_MAX: usize = 76;
/// Nothing cached, and all: a light grey and a deep red, told apart in black and white, too.
const COLD: [u8; 3] = [236, 236, 232];
const WARM: [u8; 3] = [178, 24, 43];

/// Draws the `top` fullest files as an SVG document.
pub fn svg(map: &Map, top: usize) -> String {
    let mut files: Vec<&File> = map.files.iter().collect();
    files.sort_by_key(|file| std::cmp::Reverse(file.runs.pages()));
    files.truncate(top);
    let width = PARTS * PART_WIDTH + 2 * MARGIN;
    let height = HEAD_HEIGHT + files.len() as u64 * ROW_HEIGHT + MARGIN;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"15\">{} of {} files in the page cache</text>\n",
        bytes(map.bytes()),
        map.files.len()
    );
    legend(&mut text, files.len());
    for (row, file) in files.into_iter().enumerate() {
        strip(&mut text, map, file, HEAD_HEIGHT + row as u64 * ROW_HEIGHT);
    }
    text.push_str("</svg>\n");
    text
}

/// What the shades mean. Writing to a string cannot fail, here and below.
fn legend(text: &mut String, shown: usize) {
    const STEPS: u64 = 5;
    let left = MARGIN + 430;
    let _ = writeln!(
        text,
        "<text x=\"{MARGIN}\" y=\"45\" fill=\"#555\">the {shown} fullest, each from its first byte to its last</text>\n\
         <text x=\"{}\" y=\"45\" fill=\"#555\" text-anchor=\"end\">cached: 0 %</text>",
        left - 6
    );
    for step in 0..=STEPS {
        let _ = writeln!(
            text,
            "<rect x=\"{}\" y=\"35\" width=\"24\" height=\"12\" fill=\"{}\"/>",
            left + step * 24,
            shade(step, STEPS)
        );
    }
    let _ = writeln!(text, "<text x=\"{}\" y=\"45\" fill=\"#555\">100 %</text>", left + (STEPS + 1) * 24 + 6);
}

fn strip(text: &mut String, map: &Map, file: &File, top: u64) {
    let size = file.identity.map(|identity| identity.size);
    // Of happycache's files only the last cached page is known.
    let pages = size.map_or(0, |size| size.div_ceil(map.page_size)).max(file.runs.end()).max(1);
    let cached = file.runs.pages().saturating_mul(map.page_size);
    let of = size.map_or(String::new(), |size| {
        format!(" of {} ({} %)", bytes(size), (file.runs.pages() * 100 + pages / 2) / pages)
    });
    let name = map.path(file).to_string_lossy().into_owned();
    let name = escape(&shorten(&name));
    let _ = writeln!(
        text,
        "<text x=\"{MARGIN}\" y=\"{}\">{name}<tspan dx=\"10\" fill=\"#555\">{}{of}</tspan></text>",
        top + 14,
        bytes(cached)
    );
    // A file of few pages has a part for each.
    let parts = pages.min(PARTS);
    let width = PARTS * PART_WIDTH;
    let y = top + 19;
    let _ = writeln!(
        text,
        "<rect x=\"{MARGIN}\" y=\"{y}\" width=\"{width}\" height=\"{STRIP_HEIGHT}\" fill=\"{}\"/>",
        shade(0, 1)
    );
    let counts = counts(file, pages, parts);
    let mut part = 0;
    while part < parts {
        let (most, shown) = (page_of(part + 1, pages, parts) - page_of(part, pages, parts), counts[part as usize]);
        let color = shade(shown, most);
        // Neighbours of one shade are one rectangle.
        let mut end = part + 1;
        while end < parts
            && shade(counts[end as usize], page_of(end + 1, pages, parts) - page_of(end, pages, parts)) == color
        {
            end += 1;
        }
        if shown > 0 {
            let x = |part: u64| part as f64 * width as f64 / parts as f64;
            let _ = writeln!(
                text,
                "<rect x=\"{:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{STRIP_HEIGHT}\" fill=\"{color}\"/>",
                MARGIN as f64 + x(part),
                x(end) - x(part)
            );
        }
        part = end;
    }
}

/// The first page of a part.
fn page_of(part: u64, pages: u64, parts: u64) -> u64 {
    (u128::from(part) * u128::from(pages) / u128::from(parts)) as u64
}

/// How many pages of each part are cached.
fn counts(file: &File, pages: u64, parts: u64) -> Vec<u64> {
    let mut counts = vec![0; parts as usize];
    let mut part = 0;
    for run in &file.runs {
        let mut at = run.first;
        while at < run.end() && part < parts {
            let end = page_of(part + 1, pages, parts);
            if at >= end {
                part += 1;
                continue;
            }
            counts[part as usize] += run.end().min(end) - at;
            at = end;
        }
    }
    counts
}

/// A color between cold and warm. The least that is cached is seen, too: shades begin at a fifth.
fn shade(count: u64, most: u64) -> String {
    let share = if count == 0 { 0.0 } else { 0.2 + 0.8 * count as f64 / most.max(1) as f64 };
    let channel = |cold: u8, warm: u8| {
        let value = f64::from(cold) + (f64::from(warm) - f64::from(cold)) * share.min(1.0);
        // Rounded within a byte's bounds.
        #[allow(clippy::cast_sign_loss)]
        let byte = value.round().clamp(0.0, 255.0) as u8;
        byte
    };
    let [red, green, blue] = [0, 1, 2].map(|index| channel(COLD[index], WARM[index]));
    format!("#{red:02x}{green:02x}{blue:02x}")
}

fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// The end of a long name: it says more than the beginning.
fn shorten(name: &str) -> String {
    let count = name.chars().count();
    if count <= NAME_MAX {
        name.into()
    } else {
        format!("…{}", name.chars().skip(count - NAME_MAX).collect::<String>())
    }
}

/// Text for XML, which knows no control characters at all.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Identity;
    use crate::runs::Run;

    fn file(path: &str, pages: u64, runs: &[(u64, u64)]) -> File {
        let runs = runs.iter().map(|&(first, pages)| Run { first, pages }).collect();
        File { root: 0, path: path.into(), identity: Some(Identity { size: pages * 4096, inode: 1, used: 0 }), runs }
    }

    #[test]
    fn each_part_counts_its_own_pages() {
        assert_eq!(counts(&file("a", 8, &[(0, 3), (5, 1)]), 8, 8), [1, 1, 1, 0, 0, 1, 0, 0]);
        assert_eq!(counts(&file("a", 8, &[(1, 6)]), 8, 2), [3, 3]);
        assert_eq!(counts(&file("a", 7, &[(0, 7)]), 7, 3), [2, 2, 3]);
    }

    #[test]
    fn the_least_that_is_cached_is_seen() {
        assert_eq!(shade(0, 1000), "#ecece8");
        assert_ne!(shade(1, 1_000_000), shade(0, 1_000_000));
        assert_eq!(shade(9, 9), "#b2182b");
    }

    #[test]
    fn a_picture_has_a_strip_for_each_of_the_fullest() {
        let files = vec![
            file("little", 10, &[(0, 1)]),
            file("<&\n", 1000, &[(0, 500)]),
            file("b", 1000, &[(0, 40), (900, 60)]),
        ];
        let map = Map { page_size: 4096, dumped: 0, roots: vec!["/d".into()], files };
        let drawn = svg(&map, 2);
        assert!(!drawn.contains("little"));
        assert!(drawn.contains("/d/&lt;&amp;\u{fffd}<tspan"), "{drawn}");
        assert!(drawn.contains("2.0 MiB of 3.9 MiB (50 %)"), "{drawn}");
        assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
        assert!(svg(&Map { page_size: 4096, ..Map::default() }, 9).contains("0 B of 0 files"));
    }
}
