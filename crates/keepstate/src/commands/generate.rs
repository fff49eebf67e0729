//! `keepstate generate`: man pages and shell completions, from the command line's definition. For who packages us.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output::Output;

/// Write man pages or shell completions into a directory
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Example:
  keepstate generate man /usr/local/share/man/man1")]
pub(crate) struct Args {
    #[arg(value_enum)]
    what: What,
    /// Where to; created when missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

/// What is generated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// A page for every command
    Man,
    /// For bash, zsh, fish, elvish and PowerShell
    Completions,
}

#[allow(clippy::needless_pass_by_value, reason = "every command takes its arguments")]
pub(crate) fn run(args: Args, output: &Output) -> Result<()> {
    let directory = &args.directory;
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    match args.what {
        What::Man => clap_mangen::generate_to(Cli::command(), directory).map_err(Into::into),
        What::Completions => completions(directory),
    }
    .with_context(|| format!("writing into {}", directory.display()))?;
    output.print(&directory, || format!("Written into {}\n", directory.display()))
}

fn completions(directory: &Path) -> Result<()> {
    let mut root = Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
        clap_complete::generate_to(shell, &mut root, "keepstate", directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_but_the_hidden_one() {
        let directory = tempfile::tempdir().unwrap();
        clap_mangen::generate_to(Cli::command(), &directory).unwrap();
        for name in ["keepstate.1", "keepstate-flash.1", "keepstate-flash-apply.1", "keepstate-store-serve.1"] {
            let text = fs::read_to_string(directory.path().join(name)).unwrap();
            assert!(text.contains(".SH SYNOPSIS"), "{name}: {text}");
        }
        assert!(!directory.path().join("keepstate-generate.1").exists());
    }

    #[test]
    fn every_shell_completes_the_commands() {
        let directory = tempfile::tempdir().unwrap();
        completions(directory.path()).unwrap();
        let files: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 5, "{files:?}");
        for file in files {
            assert!(fs::read_to_string(&file).unwrap().contains("flash"), "{}", file.display());
        }
    }
}
