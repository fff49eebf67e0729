//! Keys and files on the root without which data cannot be opened, put together, or served.

use super::{Facts, Verdict, fine, refused, unknown, warning};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its path; or, of something within a file, a path and what: `/etc/mdadm/mdadm.conf: ARRAY UUID=1`.
    pub path: String,
    /// Who names it: `/etc/crypttab (data)`.
    pub by: String,
    /// Whether another content would not do.
    pub must_be_same: bool,
    /// What the image has there.
    pub in_image: InImage,
}

/// What an image has in a file's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InImage {
    /// The same.
    Same,
    /// Something else.
    Other,
    /// Nothing.
    Missing,
}

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let Ok(needs) = &facts.needs else {
        return unknown("which files on the root the data needs, or what the image has of them,");
    };
    let is_carried = |need: &&Need| facts.carried.contains(&need.path);
    let needs: Vec<&Need> = needs.iter().filter(|need| !is_carried(need)).collect();
    let lacking = needs.iter().filter(|need| match need.in_image {
        InImage::Missing => true,
        InImage::Other => need.must_be_same,
        InImage::Same => false,
    });
    let lacking: Vec<_> = lacking
        .map(|need| {
            let how = if need.in_image == InImage::Missing { "is missing" } else { "is another" };
            format!("{}, which {} needs, {how}", need.path, need.by)
        })
        .collect();
    if !lacking.is_empty() {
        return refused(
            "the image lacks what the data on this node needs",
            "put these into the image, or move them to a data disk",
        )
        .listing(lacking);
    }
    let others = needs.iter().filter(|need| need.in_image == InImage::Other);
    let others: Vec<_> = others.map(|need| format!("{}, which {} names", need.path, need.by)).collect();
    if !others.is_empty() {
        return warning("the image has its own of some files; after the upgrade these are used").listing(others);
    }
    fine(format!("the image has all {} that are named", needs.len()))
}
