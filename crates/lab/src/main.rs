//! The lab by hand: `cargo run -p keepstate-lab -- --help`.

mod demo;
mod outage;
mod promise;
mod turn;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use lab::{Baker, Bus, Disk, Firmware, Machine, Options, Recipe, Tree, say, tools};

/// Small real systems in QEMU, by hand
#[derive(Debug, Parser)]
#[command(name = "keepstate-lab", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what is installed of what the lab needs
    Tools,
    /// Make a root tree, and say where it is
    Tree(SystemArgs),
    /// Make a disk, and say where it is
    Bake(SystemArgs),
    /// Boot a system, and say how to reach it; Enter ends it
    Boot(BootArgs),
    /// Replace a server's OS and put it back, while a client keeps asking
    Demo,
    /// Measure the outage of an upgrade beside that of a plain restart; fail if it is longer than promised
    Outage(Runs),
    /// Measure how long one upgrade takes that a developer tries; fail if it is longer than promised
    Loop(Runs),
}

#[derive(Debug, clap::Args)]
struct Runs {
    /// How often
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

#[derive(Debug, clap::Args)]
struct SystemArgs {
    /// Which system
    system: SystemName,
    /// Its version
    #[arg(long, default_value_t = 1)]
    version: u32,
    /// More of Debian's packages, such as openssh-server
    #[arg(long, value_name = "PACKAGE")]
    with: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: cargo run -p keepstate-lab -- boot tiny --firmware uefi --bus nvme")]
struct BootArgs {
    #[command(flatten)]
    system: SystemArgs,
    /// bios or uefi
    #[arg(long, default_value = "bios")]
    firmware: FirmwareName,
    /// virtio or nvme
    #[arg(long, default_value = "virtio")]
    bus: BusName,
    /// Memory, MiB
    #[arg(long, default_value_t = 512)]
    memory: u32,
    /// Processors
    #[arg(long, default_value_t = 1)]
    processors: u32,
    /// Add a data disk of 64 MiB
    #[arg(long)]
    data: bool,
    /// Another raw disk instead of the baked one; it is not written to
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SystemName {
    Tiny,
    Debian,
    Sysvinit,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FirmwareName {
    Bios,
    Uefi,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BusName {
    Virtio,
    Nvme,
}

fn main() -> ExitCode {
    match carry_out(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("keepstate-lab: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<()> {
    match command {
        Command::Tools => {
            for tool in tools::all() {
                let place = tool.find().map_or("missing".into(), |path| path.display().to_string());
                say(&format!("{:<20} {:<36} {place}", tool.package, tool.name));
            }
            Ok(())
        }
        Command::Tree(system) => {
            say(&system.tree()?.root.display().to_string());
            Ok(())
        }
        Command::Bake(system) => {
            say(&system.bake()?.display().to_string());
            Ok(())
        }
        Command::Boot(args) => boot(&args),
        Command::Demo => demo::run(),
        Command::Outage(Runs { runs }) => outage::run(runs),
        Command::Loop(Runs { runs }) => turn::run(runs),
    }
}

impl SystemArgs {
    fn tree(&self) -> Result<Tree> {
        let recipe = match self.system {
            SystemName::Tiny => Recipe::tiny(self.version),
            SystemName::Debian => Recipe::debian(self.version),
            SystemName::Sysvinit => Recipe::sysvinit(self.version),
        };
        let recipe = self.with.iter().fold(recipe, |recipe, package| recipe.with(package));
        Ok(recipe.tree()?)
    }

    fn bake(&self) -> Result<PathBuf> {
        let options = match self.system {
            SystemName::Tiny => Options::default(),
            SystemName::Debian => Options::debian(),
            SystemName::Sysvinit => Options::sysvinit(),
        };
        Ok(Baker::built()?.bake(&self.tree()?, &options)?)
    }
}

fn boot(args: &BootArgs) -> Result<()> {
    let image = args.image.clone().map_or_else(|| args.system.bake(), Ok)?;
    let firmware = match args.firmware {
        FirmwareName::Bios => Firmware::Bios,
        FirmwareName::Uefi => Firmware::Uefi,
    };
    let bus = match args.bus {
        BusName::Virtio => Bus::Virtio,
        BusName::Nvme => Bus::Nvme,
    };
    let mut machine = Machine::new("by-hand")?
        .firmware(firmware)
        .bus(bus)
        .memory_mib(args.memory)
        .processors(args.processors)
        .forward(22)
        .disk(Disk::image("root", &image));
    if args.data {
        machine = machine.disk(Disk::ext4("data", 64 << 20, "data"));
    }
    machine.power_on()?;
    let sockets = machine.sockets()?;
    let console = sockets.join("console");
    say(&format!("console log:       {}", machine.console_log().display()));
    say(&format!(
        "console:           socat -,raw,echo=0,escape=0x1d UNIX-CONNECT:{} (Ctrl-] leaves)",
        console.display()
    ));
    say(&format!("SSH, if it has it: port {} of 127.0.0.1", machine.port(22)?));
    match machine.wait_until_up(Duration::from_mins(3)) {
        Ok(time) => say(&format!("up after {:.1} s", time.as_secs_f64())),
        Err(error) => say(&format!("not up: {error}")),
    }
    say("Enter switches it off.");
    std::io::stdin().read_line(&mut String::new()).context("waiting for Enter")?;
    Ok(())
}
