//! What people read of plans and reports.

use std::fmt::Write;

use indicatif::HumanBytes;
use model::report::{FlashPlan, FlashReport, UndoReport};

/// A plan, as a table.
pub(crate) fn plan(image: &str, disk: &str, plan: &FlashPlan) -> String {
    let (before, after) = (plan.prepare_seconds, plan.apply_seconds);
    let predicted = format!(
        "Predicted: {before:.1} s before the first write, {after:.1} s from there to the end. Nothing was written."
    );
    format!("{}{predicted}\n", comparison(image, disk, plan))
}

/// What of an image a disk has already, and what becomes of the rest.
pub(crate) fn comparison(image: &str, disk: &str, plan: &FlashPlan) -> String {
    let percent = |bytes: u64| 100.0 * bytes as f64 / plan.image.max(1) as f64;
    let mut text = format!("{image} onto {disk}: {}\n", plan.compare);
    let rows = [
        ("equal already", plan.equal, String::new()),
        ("to be zeroed", plan.zero, String::new()),
        ("reused from the disk", plan.reuse, String::new()),
        ("fetched", plan.fetch, format!(", {} compressed", HumanBytes(plan.fetch_compressed))),
        ("written in all", plan.write, String::new()),
        ("logged for undo", plan.log, ", before compression".into()),
    ];
    for (what, bytes, more) in rows {
        let more = if bytes == 0 { "" } else { more.as_str() };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {what:<21} {:>12} {:>5.1} %{more}", HumanBytes(bytes).to_string(), percent(bytes));
    }
    text
}

/// A flash's report.
pub(crate) fn report(report: &FlashReport) -> String {
    let bytes = &report.bytes;
    let seconds = &report.seconds;
    let mut text = String::new();
    let resumed = if report.resumed { " (finishing a flash that was cut off)" } else { "" };
    let _ = writeln!(text, "{} equals {}{resumed}", report.disk, report.image);
    if let Some(blake3) = report.blake3 {
        let _ = writeln!(text, "  blake3      {blake3}");
    }
    let _ = writeln!(
        text,
        "  bytes       {} fetched, {} reused, {} written, {} zeroed, {} left alone",
        HumanBytes(bytes.fetched),
        HumanBytes(bytes.reused),
        HumanBytes(bytes.written),
        HumanBytes(bytes.zeroed),
        HumanBytes(bytes.skipped)
    );
    if bytes.log_size > 0 {
        let _ = writeln!(text, "  undo log    {}, holding {}", HumanBytes(bytes.log_size), HumanBytes(bytes.logged));
    }
    let _ = writeln!(
        text,
        "  seconds     {:.1} comparing, {:.1} staging, {:.1} writing; {:.1} in all, mostly waiting for: {}",
        seconds.compare, seconds.stage, seconds.apply, seconds.total, report.stages.bottleneck
    );
    if !report.direct {
        text.push_str("  note        the disk refuses direct I/O: writes were proved through the page cache, flushed and dropped\n");
    }
    if report.rewritten > 0 {
        let _ = writeln!(
            text,
            "  note        {} pieces had to be written again: the disk may be failing",
            report.rewritten
        );
    }
    text
}

/// An undo's report.
pub(crate) fn undone(report: &UndoReport) -> String {
    let mut text = format!("{} is what it was before the flash\n", report.disk);
    if let Some(blake3) = report.blake3 {
        let _ = writeln!(text, "  blake3      {blake3}");
    }
    let _ = writeln!(
        text,
        "  bytes       {} put back from the log, {} from the image, {} left alone",
        HumanBytes(report.restored),
        HumanBytes(report.from_image),
        HumanBytes(report.skipped)
    );
    let _ = writeln!(text, "  seconds     {:.1}", report.seconds);
    text
}
