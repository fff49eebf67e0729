//! What has to be done to a filesystem so that it holds another tree: as little as possible, because every block that
//! stays where it is need not be fetched again by those who have the previous image.

use std::path::{Path, PathBuf};

use super::error::Result;
use super::tree::{Kind, Node, NodeId, Tree};

/// One thing to do. Paths are relative to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Takes away a name, and the file if it was its last one.
    Remove(PathBuf),
    RemoveDirectory(PathBuf),
    MakeDirectory(PathBuf),
    /// Writes the content of the wanted tree's node.
    Write(PathBuf, NodeId),
    Symlink(PathBuf, Vec<u8>),
    Device {
        path: PathBuf,
        is_block: bool,
    },
    Fifo(PathBuf),
    /// Gives a file that stands at `to` one more name.
    Link {
        path: PathBuf,
        to: PathBuf,
    },
    SetAttribute {
        path: PathBuf,
        name: Vec<u8>,
        value: Vec<u8>,
    },
    RemoveAttribute {
        path: PathBuf,
        name: Vec<u8>,
    },
}

/// What is to be done, in order, and how much stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) kept: Amount,
    pub(super) written: Amount,
    /// Names that go away, or make room for something else.
    pub(super) removed: u64,
}

/// Regular files, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Amount {
    /// How many files.
    pub files: u64,
    /// How many bytes are in them.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, node: &Node) {
        if let Kind::File { size, .. } = node.kind {
            self.files += 1;
            self.bytes += size;
        }
    }
}

/// Compares two trees. `has_same_bytes` says whether two regular files of one size, first the wanted one, are equal.
/// Owners, modes and times are no matter here: they are set in place.
pub(super) fn plan(
    wanted: &Tree,
    old: &Tree,
    has_same_bytes: &mut dyn FnMut(&Node, &Node) -> Result<bool>,
) -> Result<Plan> {
    let matched = match_nodes(wanted, old, has_same_bytes)?;
    let is_kept = |path: &Path, id: NodeId| matched[id].is_some() && old.id(path) == matched[id];
    let mut plan = Plan::default();
    // What is in a directory goes before it.
    for (path, old_id) in old.iter().rev() {
        if wanted.id(path).is_some_and(|id| matched[id] == Some(old_id)) {
            continue;
        }
        plan.removed += 1;
        let remove = if old.node(old_id).is_directory() { Step::RemoveDirectory } else { Step::Remove };
        plan.steps.push(remove(path.to_owned()));
    }
    // Where a node can be found, to give it more names.
    let mut stands: Vec<Option<&Path>> = vec![None; wanted.nodes().len()];
    for (path, id) in wanted.iter().filter(|(path, id)| is_kept(path, *id)) {
        stands[id].get_or_insert(path);
    }
    let mut is_seen = vec![false; wanted.nodes().len()];
    for (path, id) in wanted.iter() {
        let node = wanted.node(id);
        if !is_kept(path, id) {
            plan.steps.push(match stands[id] {
                Some(to) => Step::Link { path: path.to_owned(), to: to.to_owned() },
                None => make(path, id, node),
            });
            stands[id].get_or_insert(path);
        }
        if std::mem::replace(&mut is_seen[id], true) {
            continue;
        }
        let amount = if matched[id].is_some() { &mut plan.kept } else { &mut plan.written };
        amount.add(node);
        let before = matched[id].map(|old_id| &old.node(old_id).attributes);
        let path = stands[id].unwrap_or(path);
        plan.steps.extend(attribute_steps(path, before, node));
    }
    Ok(plan)
}

/// For each wanted node, the old one that can stay in its place.
fn match_nodes(
    wanted: &Tree,
    old: &Tree,
    has_same_bytes: &mut dyn FnMut(&Node, &Node) -> Result<bool>,
) -> Result<Vec<Option<NodeId>>> {
    let mut matched = vec![None; wanted.nodes().len()];
    let mut is_taken = vec![false; old.nodes().len()];
    for (path, id) in wanted.iter() {
        let Some(old_id) = old.id(path).filter(|old_id| !is_taken[*old_id] && matched[id].is_none()) else { continue };
        let (new_node, old_node) = (wanted.node(id), old.node(old_id));
        let can_stay = match (&new_node.kind, &old_node.kind) {
            (Kind::Directory, Kind::Directory) | (Kind::Fifo, Kind::Fifo) => true,
            (Kind::File { size, .. }, Kind::File { size: old_size, .. }) => {
                size == old_size && has_same_bytes(new_node, old_node)?
            }
            (Kind::Symlink(target), Kind::Symlink(old_target)) => target == old_target,
            (Kind::Device { is_block, .. }, Kind::Device { is_block: was_block, .. }) => is_block == was_block,
            _ => false,
        };
        if can_stay {
            matched[id] = Some(old_id);
            is_taken[old_id] = true;
        }
    }
    Ok(matched)
}

fn make(path: &Path, id: NodeId, node: &Node) -> Step {
    let path = path.to_owned();
    match &node.kind {
        Kind::Directory => Step::MakeDirectory(path),
        Kind::File { .. } => Step::Write(path, id),
        Kind::Symlink(target) => Step::Symlink(path, target.clone()),
        Kind::Device { is_block, .. } => Step::Device { path, is_block: *is_block },
        Kind::Fifo => Step::Fifo(path),
    }
}

fn attribute_steps(path: &Path, before: Option<&super::tree::Attributes>, node: &Node) -> Vec<Step> {
    let old = |name| before.and_then(|before| before.get(name));
    // First what goes, then what comes: an inode has little room.
    let gone = before.into_iter().flatten().filter(|(name, _)| !node.attributes.contains_key(*name));
    let gone = gone.map(|(name, _)| Step::RemoveAttribute { path: path.to_owned(), name: name.clone() });
    let come =
        node.attributes.iter().filter(|(name, value)| old(*name) != Some(*value)).map(|(name, value)| {
            Step::SetAttribute { path: path.to_owned(), name: name.clone(), value: value.clone() }
        });
    gone.chain(come).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::Content;
    use super::*;

    fn tree(names: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        tree.put(PathBuf::new(), Node::directory(0o755, 0));
        for (path, content) in names {
            match content.split_once(' ') {
                Some(("link", to)) => {
                    let id = tree.id(Path::new(to)).unwrap();
                    tree.link(path.into(), id);
                }
                Some(("to", target)) => {
                    let node = Node { kind: Kind::Symlink(target.into()), ..Node::directory(0o777, 0) };
                    tree.put(path.into(), node);
                }
                _ if *content == "directory" => {
                    tree.put(path.into(), Node::directory(0o755, 0));
                }
                _ => {
                    tree.put(path.into(), Node::file(content.as_bytes(), 0o644, 0));
                }
            }
        }
        tree
    }

    fn steps(old: &[(&str, &str)], new: &[(&str, &str)]) -> Vec<String> {
        let mut compare = |a: &Node, b: &Node| match (&a.kind, &b.kind) {
            (Kind::File { content: Content::Bytes(a), .. }, Kind::File { content: Content::Bytes(b), .. }) => {
                Ok(a == b)
            }
            _ => panic!("only files are compared"),
        };
        let plan = plan(&tree(new), &tree(old), &mut compare).unwrap();
        let show = |path: &PathBuf| path.display().to_string();
        let steps = plan.steps.iter().map(|step| match step {
            Step::Remove(path) => format!("rm {}", show(path)),
            Step::RemoveDirectory(path) => format!("rmdir {}", show(path)),
            Step::MakeDirectory(path) => format!("mkdir {}", show(path)),
            Step::Write(path, _) => format!("write {}", show(path)),
            Step::Symlink(path, target) => format!("symlink {} {}", show(path), String::from_utf8_lossy(target)),
            Step::Link { path, to } => format!("ln {} {}", show(to), show(path)),
            other => format!("{other:?}"),
        });
        steps.collect()
    }

    #[test]
    fn equal_trees_need_nothing() {
        let files = [("d", "directory"), ("d/f", "1"), ("d/g", "link d/f"), ("l", "to d/f")];
        assert_eq!(steps(&files, &files), Vec::<String>::new());
    }

    #[test]
    fn only_what_differs_is_touched_and_removals_come_first() {
        let old = [("d", "directory"), ("d/gone", "1"), ("d/same", "2"), ("d/old", "3"), ("l", "to a")];
        let new = [("a", "9"), ("d", "directory"), ("d/same", "2"), ("d/old", "4"), ("l", "to b")];
        assert_eq!(steps(&old, &new), ["rm l", "rm d/old", "rm d/gone", "write a", "write d/old", "symlink l b"]);
    }

    #[test]
    fn a_directory_that_becomes_a_file_is_emptied_first_and_the_other_way_round() {
        let old = [("x", "directory"), ("x/y", "directory"), ("x/y/z", "1"), ("y", "1")];
        let new = [("x", "1"), ("y", "directory"), ("y/z", "1")];
        assert_eq!(steps(&old, &new), ["rm y", "rm x/y/z", "rmdir x/y", "rmdir x", "write x", "mkdir y", "write y/z"]);
    }

    #[test]
    fn hard_links_come_and_go_without_the_file_being_written_again() {
        let two = [("a", "1"), ("b", "link a")];
        let one = [("a", "1")];
        let apart = [("a", "1"), ("b", "1")];
        assert_eq!(steps(&one, &two), ["ln a b"]);
        assert_eq!(steps(&two, &one), ["rm b"]);
        assert_eq!(steps(&two, &apart), ["rm b", "write b"]);
        assert_eq!(steps(&apart, &two), ["rm b", "ln a b"]);
    }

    #[test]
    fn a_changed_file_is_written_once_for_all_its_names() {
        let old = [("a", "1"), ("b", "link a")];
        let new = [("a", "2"), ("b", "link a")];
        assert_eq!(steps(&old, &new), ["rm b", "rm a", "write a", "ln a b"]);
    }

    #[test]
    fn a_link_to_what_stays_under_a_later_name_finds_it() {
        let old = [("z", "1")];
        let new = [("a", "1"), ("z", "link a")];
        assert_eq!(steps(&old, &new), ["ln z a"]);
    }
}
