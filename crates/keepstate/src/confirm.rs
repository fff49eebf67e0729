//! What destroys asks first; `--yes` answers.

use std::io::{self, BufRead, IsTerminal, Write};

use anyhow::{Context, Result, bail};

use crate::exit::WrongUsage;

/// Asks whether to go on, unless `yes` was said. Without a terminal to ask on, `--yes` has to be said.
pub(crate) fn ask(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(WrongUsage(format!("{question} There is no terminal to ask on: say --yes")).into());
    }
    let mut err = io::stderr();
    write!(err, "{question} [y/N] ").and_then(|()| err.flush()).context("asking")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("reading the answer")?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { bail!("nothing was done: you did not say yes") }
}
