//! Asking the owner's hooks.

use std::time::{Duration, Instant};

use imager::worker::chain;

use crate::hooks::{self, Moment, Told};
use crate::node::Node;

/// What they say, all of them within `limit`; who says no, or why they cannot be asked.
pub(super) fn ask(node: &Node, image: &str, limit: Duration) -> Result<String, String> {
    let status = node.status().map_err(|error| chain(&error))?;
    let under_way = status.upgrade.zip(status.state).filter(|(_, state)| !state.is_over());
    let upgrade = under_way.as_ref().map(|(record, _)| record.id.as_str());
    let told = Told { moment: Moment::Preflight, upgrade, image };
    let said = hooks::run(&node.config.hooks, &told, Instant::now() + limit).map_err(|failure| failure.why)?;
    Ok(said.trim_end().to_owned())
}
