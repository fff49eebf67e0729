//! After a restart: what the imager says that it did, and what has to be done when the old OS is back.

use std::fs;

use flash::log::{self, Contents, Purpose};
use imager::job::Task;
use imager::untouched::Outcome;
use imager::worker::Ending;
use steps::{Journal, What};

use crate::error::{Error, Result};
use crate::node::{Node, PATIENCE, Status};
use crate::origin::Origin;
use crate::place::Held;
use crate::record::Record;
use crate::state::{State, step};

/// Where the OS that comes finds what the imager said.
const LOG: &str = "/var/log/keepstate/imager.log";

/// What is said where nobody said anything.
const SILENT: &str = "the imager has left no word";

impl Node {
    /// The upgrade and where it stands, once the imager's word is in the journal; nothing, if there never was one.
    pub(crate) fn learned(&self) -> Result<Option<(Record, State)>> {
        let status = self.status()?;
        let Some((record, state)) = status.upgrade.zip(status.state) else { return Ok(None) };
        let state = match state {
            State::Entering | State::RollingBack => self.learn(&record, state)?,
            // Armed, and restarted by somebody else or by a power cut before the order was noted, or before an upgrade that
            // failed had taken back what leads into the imager.
            State::Prepared | State::Failed if self.has_more_to_say(&record)? => {
                self.learn(&record, State::Entering)?
            }
            state => state,
        };
        // Asked of the state, and not only while learning: the power may go between two lines of the journal.
        let state = if state == State::OnTrial { self.ask_of_changed_data(&record)? } else { state };
        Ok(Some((record, state)))
    }

    /// The same for one who is to decide. Nothing, where somebody else does, in an OS that serves.
    pub(crate) fn learned_to_decide(&self) -> Result<Option<(Held, Record, State)>> {
        let Status { upgrade: Some(_), state: Some(state), .. } = self.status()? else { return Ok(None) };
        let does_serve = state.is_over() || matches!(state, State::Begun | State::Prepared);
        let held = match self.place.hold(PATIENCE) {
            Err(Error::Busy { .. }) if does_serve => return Ok(None),
            held => held?,
        };
        Ok(self.learned()?.map(|(record, state)| (held, record, state)))
    }

    /// Whether an imager that nobody has sent on its way was there, and the journal does not have it.
    pub(crate) fn has_more_to_say(&self, record: &Record) -> Result<bool> {
        let journal = self.journal()?;
        let is_learned = journal.last(step::FLASH).or_else(|| journal.last(step::UNDO)).is_some();
        Ok(!is_learned && (self.ending_of(record)?.is_some() || Origin::is_of(&self.machine, record)))
    }

    /// What the imager says that it has done.
    fn learn(&self, record: &Record, state: State) -> Result<State> {
        let ending = self.ending_of(record)?;
        let left = self.journal()?;
        let left = left.last(if state == State::Entering { step::ENTER } else { step::ROLL_BACK });
        let left = left.filter(|entry| entry.what == What::Done).and_then(|entry| entry.text.clone());
        // Still in the boot that was to end, on the way down.
        if left.is_some() && left == self.machine.boot_id() {
            return Ok(state);
        }
        self.carry_log();
        // A boot entry outlives the restart on the disk that holds it, and an undo brings it back. It is not booked any
        // more; but it holds the job. It goes first: once the journal has the ending, nobody comes here again.
        self.disarm_or_warn("what led into the imager is not booked, and could not be taken away");
        let done = if ending.is_none() { self.what_was_done(record) } else { None };
        let (step, what, text) = verdict(ending.as_ref(), done, state);
        self.note(step, what, Some(text))?;
        Ok(self.status()?.state.unwrap_or(state))
    }

    /// What the imager did without having left a word, as far as it can be told: the power may go just then.
    fn what_was_done(&self, record: &Record) -> Option<Task> {
        if Origin::is_of(&self.machine, record) {
            return Some(Task::Flash);
        }
        let path = self.place.undo();
        let undo = flash::Place { path, region: None }.open_existing().ok()?;
        match Contents::skim(&*undo, Purpose::Undo).ok()??.state {
            log::State::Done => Some(Task::Flash),
            log::State::Undone => Some(Task::Undo),
            _ => None,
        }
    }

    /// Leaves a new OS to a person when data disks are not as they were. Gives the state after that.
    fn ask_of_changed_data(&self, record: &Record) -> Result<State> {
        let ending = self.ending_of(record)?;
        let Some(changed) = ending.as_ref().and_then(changed_data) else { return Ok(State::OnTrial) };
        self.note(step::ASK, What::Noted, Some(changed))?;
        Ok(State::Asked)
    }

    /// What the imager left, if it left anything.
    pub(crate) fn ending(&self) -> Result<Option<Ending>> {
        let path = self.place.ending();
        let failed = |source| Error::File { doing: "reading", path: self.place.ending(), source };
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn ending_of(&self, record: &Record) -> Result<Option<Ending>> {
        Ok(self.ending()?.filter(|ending| ending.upgrade == record.id))
    }

    /// The imager's log goes where people look for logs. It stays in the place, too.
    fn carry_log(&self) {
        let path = self.machine.path(LOG);
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        if let Err(error) = folder.and_then(|()| fs::copy(self.place.imager_log(), &path)) {
            tracing::warn!(%error, "the imager's log is not in {LOG}, but only in the place");
        }
    }
}

/// What goes into the journal for an ending, or for none; then for what was `done`, if that is known.
fn verdict(ending: Option<&Ending>, done: Option<Task>, state: State) -> (&'static str, What, String) {
    let (step, what, first) = match ending {
        Some(Ending { done: true, task: Task::Flash, flash, seconds, kept, left_out, .. })
            if state == State::Entering =>
        {
            let written = flash.as_ref().map_or(0, |report| report.bytes.written + report.bytes.zeroed);
            let flashed = format!("{} MiB in {seconds:.1} s", written >> 20);
            let kept = (!kept.is_empty()).then(|| format!("kept of the old root: {}", kept.join(" ")));
            let left_out = left_out.iter().map(|why| format!("not kept: {why}"));
            let lines: Vec<_> = std::iter::once(flashed).chain(kept).chain(left_out).collect();
            (step::FLASH, What::Done, lines.join("\n"))
        }
        // The imager could not finish, and put the old disk back by itself; or was asked to.
        Some(Ending { done: true, task: Task::Undo, seconds, why, .. }) => {
            let undone = format!("in {seconds:.1} s");
            let why = why.iter().map(|why| format!("because the new OS could not be written: {why}"));
            (step::UNDO, What::Done, std::iter::once(undone).chain(why).collect::<Vec<_>>().join("\n"))
        }
        None if done == Some(Task::Flash) && state == State::Entering => {
            (step::FLASH, What::Done, format!("{SILENT}, but this is the new OS"))
        }
        None if done == Some(Task::Undo) => (step::UNDO, What::Done, format!("{SILENT}, but the undo log says so")),
        ending => {
            let step = if state == State::Entering { step::FLASH } else { step::UNDO };
            let why = ending.and_then(|ending| ending.why.clone());
            let silent = || format!("{SILENT}: it was not entered, or did not come to its end");
            (step, What::Failed, why.unwrap_or_else(silent))
        }
    };
    let disks = ending.into_iter().flat_map(|ending| &ending.data_disks).map(ToString::to_string);
    (step, what, std::iter::once(first).chain(disks).collect::<Vec<_>>().join("\n"))
}

/// Data disks that are not as they were, in a sentence for who has to decide.
fn changed_data(ending: &Ending) -> Option<String> {
    let changed = ending.data_disks.iter().filter(|disk| matches!(disk.outcome, Outcome::Changed { .. }));
    let changed: Vec<_> = changed.map(ToString::to_string).collect();
    let what = "something else than keepstate wrote to it in the imager: look at the data before its datastore starts";
    (!changed.is_empty()).then(|| format!("{}; {what}", changed.join("; ")))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::thread;
    use std::time::{Duration, Instant};

    use imager::untouched::DataDisk;

    use super::*;
    use crate::config::Config;
    use crate::hooks::{self, Moment};
    use crate::machine::Machine;

    /// A node below `folder` that has come out of the imager, with what the journal has and what the imager left.
    fn node(folder: &Path, before: &[(&str, What)], ending: &Ending) -> Node {
        let text = format!("place = {:?}\nhooks = {:?}", folder.join("place"), folder.join("hooks"));
        let node = Node { machine: Machine::below(folder), ..Node::new(Config::parse_text(&text).unwrap()) };
        node.place.make().unwrap();
        let record = Record::example(&ending.upgrade, &[]);
        record.write(&node.place.record()).unwrap();
        fs::write(node.place.ending(), serde_json::to_vec(ending).unwrap()).unwrap();
        for (step, what) in before {
            node.note(step, *what, None).unwrap();
        }
        node
    }

    fn ending(task: Task, done: bool) -> Ending {
        let disk = |path: &str, outcome| DataDisk { path: path.into(), disk: "serial=1".into(), outcome };
        Ending {
            format: 1,
            upgrade: "7".into(),
            task,
            done,
            why: (!done).then(|| "the store is gone".into()),
            seconds: 1.5,
            entered: 0.0,
            ended: 0.0,
            flash: None,
            undo: None,
            kept: vec!["/etc/machine-id".into()],
            left_out: Vec::new(),
            data_disks: vec![disk("/dev/vdb", Outcome::Untouched { edges: 4, files: 0, counted: true })],
        }
    }

    #[test]
    fn every_ending_is_said_in_the_journal() {
        let (step, what, text) = verdict(Some(&ending(Task::Flash, true)), None, State::Entering);
        assert_eq!((step, what), (step::FLASH, What::Done));
        assert!(text.contains("kept of the old root: /etc/machine-id"), "{text}");
        assert!(text.contains("/dev/vdb (serial=1) untouched"), "{text}");
        let (step, what, text) = verdict(Some(&ending(Task::Flash, false)), None, State::Entering);
        assert_eq!((step, what), (step::FLASH, What::Failed));
        assert!(text.starts_with("the store is gone\n"), "{text}");
        assert_eq!(
            verdict(Some(&ending(Task::Undo, true)), None, State::Entering).0,
            step::UNDO,
            "it put the old disk back"
        );
        assert_eq!(verdict(Some(&ending(Task::Undo, true)), None, State::RollingBack).1, What::Done);
        let by_itself = Ending { why: Some("the disk is broken".into()), ..ending(Task::Undo, true) };
        let (_, _, text) = verdict(Some(&by_itself), None, State::Entering);
        assert!(text.contains("because the new OS could not be written: the disk is broken"), "{text}");
        assert_eq!(verdict(Some(&ending(Task::Undo, false)), None, State::RollingBack).0, step::UNDO);
    }

    #[test]
    fn a_person_is_asked_also_when_the_power_went_before_the_question_was_noted() {
        let folder = tempfile::tempdir().unwrap();
        let mut ending = ending(Task::Flash, true);
        let node = node(folder.path(), &[(step::ENTER, What::Done), (step::FLASH, What::Done)], &ending);
        assert_eq!(node.learned().unwrap().unwrap().1, State::OnTrial);
        ending.data_disks[0].outcome = Outcome::Changed { how: vec!["it counts 8 sectors as written".into()] };
        fs::write(node.place.ending(), serde_json::to_vec(&ending).unwrap()).unwrap();
        assert_eq!(node.learned().unwrap().unwrap().1, State::Asked);
        let asked = node.status().unwrap().journal.len();
        assert_eq!(node.learned().unwrap().unwrap().1, State::Asked);
        assert_eq!(node.status().unwrap().journal.len(), asked, "once");
    }

    #[test]
    fn a_node_that_was_armed_and_lost_its_power_is_tried_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let node =
            node(folder.path(), &[(step::PREPARE, What::Done), (step::ARM, What::Done)], &ending(Task::Flash, true));
        assert_eq!(node.learned().unwrap().unwrap().1, State::OnTrial);
        fs::remove_file(node.place.ending()).unwrap();
        fs::remove_file(node.place.journal()).unwrap();
        node.note(step::PREPARE, What::Done, None).unwrap();
        assert_eq!(node.learned().unwrap().unwrap().1, State::Prepared, "the imager was not there");
    }

    #[test]
    fn a_node_that_restarts_while_it_is_drained_comes_back_into_traffic_once() {
        let folder = tempfile::tempdir().unwrap();
        let node =
            node(folder.path(), &[(step::PREPARE, What::Done), (step::DRAIN, What::Done)], &ending(Task::Flash, true));
        fs::remove_file(node.place.ending()).unwrap();
        let told = hooks::tests::put_hooks(&node.config.hooks, &[Moment::Undrain]);
        let uptime = |seconds: &str| {
            fs::create_dir_all(node.machine.path("/proc")).unwrap();
            fs::write(node.machine.path("/proc/uptime"), seconds).unwrap();
        };
        uptime("1000.0 0");
        node.trial().unwrap();
        assert_eq!(told(), "", "it is drained in this boot: its upgrade may be running");
        thread::sleep(Duration::from_millis(20));
        uptime("0.001 0");
        for _ in 0..2 {
            node.trial().unwrap();
            assert_eq!(told(), "undrain\n");
        }
        assert_eq!(node.status().unwrap().state, Some(State::Prepared));
    }

    /// The failure is noted before anything is taken back, and nobody looked for traffic in what has failed.
    #[test]
    fn a_node_that_loses_its_power_while_a_failed_upgrade_is_taken_back_comes_back_into_traffic_once() {
        let folder = tempfile::tempdir().unwrap();
        let before = [(step::PREPARE, What::Done), (step::DRAIN, What::Done), (step::QUIESCE, What::Failed)];
        let node = node(folder.path(), &before, &ending(Task::Flash, true));
        fs::remove_file(node.place.ending()).unwrap();
        let told = hooks::tests::put_hooks(&node.config.hooks, &[Moment::Undrain]);
        let entry = put_entry(folder.path());
        thread::sleep(Duration::from_millis(20));
        fs::create_dir_all(node.machine.path("/proc")).unwrap();
        fs::write(node.machine.path("/proc/uptime"), "0.001 0").unwrap();
        for _ in 0..2 {
            node.trial().unwrap();
            assert_eq!(told(), "undrain\n");
        }
        assert_eq!(node.status().unwrap().state, Some(State::Failed));
        assert!(!entry.exists(), "the job is not left behind");
    }

    /// The new OS was there untried, and the next upgrade cleared its way back.
    #[test]
    fn a_node_that_was_flashed_after_its_upgrade_had_failed_is_tried_all_the_same() {
        for has_word in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let before = [(step::PREPARE, What::Done), (step::ARM, What::Done), (step::ENTER, What::Failed)];
            let node = node(folder.path(), &before, &ending(Task::Flash, true));
            if !has_word {
                fs::remove_file(node.place.ending()).unwrap();
                assert_eq!(node.learned().unwrap().unwrap().1, State::Failed, "the imager was not there");
                crate::origin::tests::put_origin(folder.path());
            }
            let refusal = node.check_last(&node.status().unwrap()).unwrap_err().to_string();
            assert!(refusal.contains("node trial"), "{refusal}");
            assert_eq!(node.learned().unwrap().unwrap().1, State::OnTrial);
            node.check_last(&node.status().unwrap()).unwrap();
            node.note(step::UNDO, What::Done, None).unwrap();
            assert_eq!(node.learned().unwrap().unwrap().1, State::RolledBack, "it is learned once");
        }
    }

    #[test]
    fn an_upgrade_that_is_given_up_takes_the_node_back_into_traffic() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path(), &[(step::PREPARE, What::Done)], &ending(Task::Flash, true));
        let told = hooks::tests::put_hooks(&node.config.hooks, &[Moment::Undrain]);
        put_entry(folder.path());
        assert!(node.abort().unwrap_err().to_string().contains("node trial"), "an imager was there");
        fs::remove_file(node.place.ending()).unwrap();
        node.abort().unwrap();
        assert_eq!(told(), "", "it was not drained");
        node.note(step::PREPARE, What::Done, None).unwrap();
        node.note(step::DRAIN, What::Begun, None).unwrap();
        node.abort().unwrap();
        assert_eq!((told().as_str(), node.status().unwrap().state), ("undrain\n", Some(State::Failed)));
    }

    /// The upgrade refused and advised to abort it, and that refused too.
    #[test]
    fn an_upgrade_that_died_at_its_restart_or_whose_restart_was_called_off_can_be_aborted_in_the_same_boot() {
        let boot = |node: &Node, id: &str, uptime: &str| {
            fs::create_dir_all(node.machine.path("/proc/sys/kernel/random")).unwrap();
            fs::write(node.machine.path("/proc/sys/kernel/random/boot_id"), id).unwrap();
            fs::write(node.machine.path("/proc/uptime"), uptime).unwrap();
        };
        let before = [(step::PREPARE, What::Done), (step::DRAIN, What::Done), (step::ENTER, What::Begun)];
        for is_ordered in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let node = node(folder.path(), &before, &ending(Task::Flash, true));
            let told = hooks::tests::put_hooks(&node.config.hooks, &[Moment::Undrain]);
            let entry = put_entry(folder.path());
            if is_ordered {
                node.note(step::ENTER, What::Done, Some("this".into())).unwrap();
            }
            boot(&node, "this", "1000.0 0");
            let refusal = node.abort().unwrap_err().to_string();
            assert!(refusal.contains("has restarted"), "the imager has left its word: {refusal}");
            fs::remove_file(node.place.ending()).unwrap();
            thread::sleep(Duration::from_millis(20));
            boot(&node, "another", "0.001 0");
            assert!(node.abort().unwrap_err().to_string().contains("has restarted"));
            assert!(entry.exists() && told().is_empty());
            boot(&node, "this", "1000.0 0");
            node.abort().unwrap();
            assert_eq!((told().as_str(), node.status().unwrap().state), ("undrain\n", Some(State::Failed)));
            assert!(!entry.exists(), "the next restart leads nowhere else");
        }
    }

    #[test]
    fn what_led_into_the_imager_is_gone_before_the_old_os_is_said_to_be_back() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path(), &[(step::ROLL_BACK, What::Done)], &ending(Task::Undo, true));
        let entry = put_entry(folder.path());
        let journal = node.place.journal();
        let is_said = || fs::read_to_string(&journal).unwrap().contains("\"undo\"");
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let begin = Instant::now();
                while !is_said() {
                    assert!(begin.elapsed() < Duration::from_secs(10), "nothing was said");
                    thread::yield_now();
                }
                entry.exists()
            });
            assert_eq!(node.learned().unwrap().unwrap().1, State::RolledBack);
            assert!(!watcher.join().unwrap(), "it was there when the journal said so");
        });
        assert!(!entry.exists());
    }

    /// A machine whose GRUB shows our entry; gives the folder that holds the imager.
    fn put_entry(root: &Path) -> PathBuf {
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let config = "load_env\nset default=\"${next_entry}\"\nsave_env next_entry\nmenuentry 'x' {\n}\n\
                      source $prefix/custom.cfg\n";
        write("boot/grub/grub.cfg", config);
        write("boot/grub/keepstate/imager.img", "its job");
        write("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        write("sys/devices/pci/sda/sda1/partition", "1\n");
        for (kind, name) in [("sys/dev/block", "8:1"), ("sys/class/block", "sda1")] {
            fs::create_dir_all(root.join(kind)).unwrap();
            std::os::unix::fs::symlink(root.join("sys/devices/pci/sda/sda1"), root.join(kind).join(name)).unwrap();
        }
        root.join("boot/grub/keepstate")
    }

    #[test]
    fn an_imager_that_left_no_word_has_failed() {
        for (state, wanted) in [(State::Entering, step::FLASH), (State::RollingBack, step::UNDO)] {
            let (step, what, text) = verdict(None, None, state);
            assert_eq!((step, what), (wanted, What::Failed));
            assert!(text.contains("no word"), "{text}");
        }
    }

    #[test]
    fn an_imager_whose_power_went_before_its_last_word_is_known_by_what_it_did() {
        assert_eq!(verdict(None, Some(Task::Undo), State::RollingBack).1, What::Done);
        assert_eq!(
            verdict(None, Some(Task::Undo), State::Entering).0,
            step::UNDO,
            "it put the old disk back by itself"
        );
        assert_eq!(verdict(None, Some(Task::Flash), State::RollingBack).1, What::Failed, "the new OS is still there");
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path(), &[(step::ENTER, What::Done)], &ending(Task::Flash, true));
        fs::remove_file(node.place.ending()).unwrap();
        crate::origin::tests::put_origin(folder.path());
        assert_eq!(node.learned().unwrap().unwrap().1, State::OnTrial);
    }

    #[test]
    fn a_data_disk_that_was_written_is_for_a_person() {
        let mut ending = ending(Task::Flash, true);
        assert_eq!(changed_data(&ending), None);
        ending.data_disks[0].outcome = Outcome::Changed { how: vec!["it counts 8 sectors as written".into()] };
        let asked = changed_data(&ending).unwrap();
        assert!(asked.contains("/dev/vdb") && asked.contains("8 sectors") && asked.contains("before its datastore"));
    }
}
