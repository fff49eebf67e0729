//! What PID 1 does when a worker has ended. Decided here, without doing anything, so that every case can be tried.

use crate::access::{Doing, Wish};
use crate::job::Task;

/// How often a job is begun while the disk was not written to: once more, in case it was chance.
const TRIES_BEFORE: u32 = 2;
/// How often a task is tried whose disk boots and is not finished.
const TRIES_TO_COMPLETE: u32 = 2;
/// How often a flash goes on that had begun to write, before the old disk is put back instead.
const TRIES_TO_FINISH: u32 = 4;
/// How often an undo is tried before the machine waits for a person.
const TRIES_TO_UNDO: u32 = 4;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It did what the job says.
    Done,
    /// It did not, for whatever reason; also when it died, or was ended because time was over.
    Failed,
    /// It was to be ended and does not end: it waits for a disk that does not answer. It had not begun to write and, killed,
    /// never will. Whatever it holds nobody can have before the machine restarts.
    Stuck,
}

/// What the disk is now. Sector 0 tells: it is the first that is written and the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// It boots: it is the old one, or the new one.
    Boots,
    /// It is half one and half another, and does not boot.
    Between,
    /// It boots, and a flash that began to write has not ended: it is the new one and may lack what the node keeps of the old
    /// one, or its first write did not reach it.
    Unfinished,
}

/// What PID 1 does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Starts a worker with this task.
    Work(Task),
    /// Leaves by a restart: the disk boots.
    Leave,
    /// Stays, because the disk does not boot and nothing more can be tried: a person is needed.
    Stay,
}

/// What has been tried.
#[derive(Clone, Debug)]
pub struct Course {
    task: Task,
    has_undo: bool,
    tries: u32,
    /// Workers that left it unfinished. Counted apart: who had trouble with writing is not without a second try here.
    unfinished: u32,
    has_written: bool,
}

impl Course {
    /// Nothing yet.
    pub fn new(task: Task, has_undo: bool) -> Self {
        Self { task, has_undo, tries: 1, unfinished: 0, has_written: false }
    }

    /// The task that is being tried.
    pub fn task(&self) -> Task {
        self.task
    }

    /// What to do now that a worker has ended. `late`: the deadline, which counts only before the first write, is over.
    pub fn next(&mut self, ended: Ended, disk: Disk, late: bool) -> Next {
        match (ended, disk) {
            // Whatever the disk is: what led into the imager is as it was, and leads into the old OS, or here again.
            (Ended::Stuck, _) | (Ended::Done, Disk::Boots | Disk::Unfinished) => Next::Leave,
            // It says that it is done, and the disk says that it is not: the disk is believed.
            (Ended::Done | Ended::Failed, Disk::Between) => self.finish(),
            (Ended::Failed, Disk::Boots) => {
                let again = !late && self.tries < TRIES_BEFORE;
                self.tries += 1;
                if again { Next::Work(self.task) } else { Next::Leave }
            }
            (Ended::Failed, Disk::Unfinished) => self.complete(),
        }
    }

    /// A node that is not itself is not let go, as long as the old one can be had back.
    fn complete(&mut self) -> Next {
        self.unfinished += 1;
        if self.unfinished < TRIES_TO_COMPLETE {
            return Next::Work(self.task);
        }
        self.back().unwrap_or(Next::Leave)
    }

    /// Turns to the undo, if there is one and it was not turned to yet.
    fn back(&mut self) -> Option<Next> {
        if self.task != Task::Flash || !self.has_undo {
            return None;
        }
        (self.task, self.tries, self.unfinished) = (Task::Undo, 1, 0);
        Some(Next::Work(Task::Undo))
    }

    /// After the first write: on, or back, or a person.
    fn finish(&mut self) -> Next {
        if !self.has_written {
            (self.has_written, self.tries) = (true, 1);
        }
        let most = match self.task {
            Task::Flash => TRIES_TO_FINISH,
            Task::Undo => TRIES_TO_UNDO,
        };
        if self.tries < most {
            self.tries += 1;
            return Next::Work(self.task);
        }
        self.back().unwrap_or(Next::Stay)
    }
}

/// Whether an operator's wish may be heeded, or why not. `has_begun`: whether a worker may have written to the disk; `disk`
/// looks at it, which is done only where nobody writes.
///
/// It is asked twice: before the worker is ended for it, and after it has ended. In between the worker may have gone on.
pub fn may(wish: Wish, doing: Doing, has_begun: bool, disk: impl FnOnce() -> Disk) -> Result<(), &'static str> {
    match (doing, wish) {
        (Doing::NeedsPerson, _) => {
            Err("the disk does not boot, and a restart would lead nowhere: the log says what was tried")
        }
        // What is left is to load the new kernel, which a restart does without.
        (Doing::Leaving, Wish::Reboot) => Ok(()),
        (Doing::Leaving, Wish::Abort) => Err("the work is done, and the machine is about to be left"),
        (Doing::Working, _) if has_begun => {
            Err("the disk is being written to: there is no way but on; what cannot be finished is undone, and \
             `keepstate node rollback` on the new OS takes the old one back")
        }
        (Doing::Working, _) => match disk() {
            Disk::Boots => Ok(()),
            Disk::Between => Err("the disk is half one and half another, and does not boot: there is no way but on"),
            Disk::Unfinished => Err("the new OS lacks what the node keeps of the old one: there is no way but on"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_heeded_only_while_the_disk_is_as_it_was_or_the_work_is_done() {
        use Disk::{Between, Boots, Unfinished};
        use Doing::{Leaving, NeedsPerson, Working};
        let heeded = |wish, doing, has_begun, disk| may(wish, doing, has_begun, || disk).is_ok();
        for wish in [Wish::Abort, Wish::Reboot] {
            assert!(heeded(wish, Working, false, Boots));
            for (has_begun, disk) in
                [(true, Boots), (true, Between), (true, Unfinished), (false, Between), (false, Unfinished)]
            {
                assert!(!heeded(wish, Working, has_begun, disk), "{wish:?} {has_begun} {disk:?}");
            }
            for disk in [Boots, Between, Unfinished] {
                assert!(!heeded(wish, NeedsPerson, true, disk), "{wish:?} {disk:?}");
                assert_eq!(heeded(wish, Leaving, true, disk), wish == Wish::Reboot);
            }
        }
    }

    #[test]
    fn a_disk_that_is_written_to_is_not_looked_at_for_a_wish() {
        may(Wish::Abort, Doing::Working, true, || panic!("nobody looks while somebody writes")).unwrap_err();
    }

    /// What a course does when its workers always fail, with the disk in this state.
    fn always_failing(task: Task, has_undo: bool, disk: Disk) -> Vec<Next> {
        let mut course = Course::new(task, has_undo);
        let mut steps = Vec::new();
        for _ in 0..50 {
            let next = course.next(Ended::Failed, disk, false);
            steps.push(next);
            if !matches!(next, Next::Work(_)) {
                return steps;
            }
        }
        panic!("it never ends: {steps:?}");
    }

    #[test]
    fn what_is_done_is_left() {
        for task in [Task::Flash, Task::Undo] {
            assert_eq!(Course::new(task, true).next(Ended::Done, Disk::Boots, true), Next::Leave);
        }
    }

    #[test]
    fn before_the_first_write_a_failure_ends_in_the_old_os() {
        let again = Next::Work(Task::Flash);
        assert_eq!(always_failing(Task::Flash, true, Disk::Boots), [again, Next::Leave]);
    }

    #[test]
    fn a_deadline_before_the_first_write_ends_in_the_old_os_at_once() {
        assert_eq!(Course::new(Task::Flash, true).next(Ended::Failed, Disk::Boots, true), Next::Leave);
    }

    #[test]
    fn after_the_first_write_time_is_no_reason_to_stop() {
        assert_eq!(Course::new(Task::Flash, true).next(Ended::Failed, Disk::Between, true), Next::Work(Task::Flash));
    }

    #[test]
    fn a_flash_that_cannot_be_finished_is_undone_and_then_a_person_is_needed() {
        let steps = always_failing(Task::Flash, true, Disk::Between);
        let flashes = steps.iter().filter(|next| **next == Next::Work(Task::Flash)).count();
        let undos = steps.iter().filter(|next| **next == Next::Work(Task::Undo)).count();
        assert_eq!((flashes, undos, steps.last()), (3, 4, Some(&Next::Stay)));
        let without = always_failing(Task::Flash, false, Disk::Between);
        assert!(!without.contains(&Next::Work(Task::Undo)));
        assert_eq!(without.last(), Some(&Next::Stay), "a disk that does not boot is never left");
    }

    #[test]
    fn an_undo_that_works_after_all_is_left() {
        let mut course = Course::new(Task::Flash, true);
        while course.next(Ended::Failed, Disk::Between, false) == Next::Work(Task::Flash) {}
        assert_eq!(course.task(), Task::Undo);
        assert_eq!(course.next(Ended::Done, Disk::Boots, false), Next::Leave);
    }

    #[test]
    fn a_new_disk_without_what_is_kept_is_tried_again_and_then_taken_back() {
        let flash = Next::Work(Task::Flash);
        let undo = Next::Work(Task::Undo);
        assert_eq!(always_failing(Task::Flash, true, Disk::Unfinished), [flash, undo, undo, Next::Leave]);
        assert_eq!(always_failing(Task::Flash, false, Disk::Unfinished), [flash, Next::Leave]);
        assert_eq!(Course::new(Task::Flash, true).next(Ended::Done, Disk::Unfinished, false), Next::Leave);
    }

    /// The deadline counts only before the first write, and a node that is not itself has been written to.
    #[test]
    fn an_unfinished_disk_is_not_left_for_the_deadline_while_there_is_an_undo() {
        for late in [false, true] {
            let mut course = Course::new(Task::Flash, true);
            let steps: Vec<Next> = (0..3).map(|_| course.next(Ended::Failed, Disk::Unfinished, late)).collect();
            assert_eq!(steps, [Next::Work(Task::Flash), Next::Work(Task::Undo), Next::Work(Task::Undo)], "{late}");
            assert_eq!(course.next(Ended::Done, Disk::Boots, late), Next::Leave, "undone");
        }
    }

    /// The tries were counted together: a flash that went on once lost the second try for what is kept.
    #[test]
    fn a_flash_that_had_trouble_before_or_while_writing_has_its_second_try_at_what_is_kept() {
        for trouble in [Disk::Boots, Disk::Between] {
            let mut course = Course::new(Task::Flash, true);
            for disk in [trouble, Disk::Unfinished] {
                assert_eq!(course.next(Ended::Failed, disk, false), Next::Work(Task::Flash), "{trouble:?}, {disk:?}");
            }
            assert_eq!(course.next(Ended::Failed, Disk::Unfinished, false), Next::Work(Task::Undo), "{trouble:?}");
        }
    }

    /// Whatever the disk is after each worker, it ends, and never on half a disk or in a new OS without a try at the old one.
    #[test]
    fn every_course_of_failures_ends_and_none_in_a_stranger_without_an_undo_tried() {
        let disks = [Disk::Boots, Disk::Between, Disk::Unfinished];
        // All sequences of ten; what goes on longer finds a disk that boots.
        for seed in 0..2 * 3_usize.pow(10) {
            let late = seed % 2 == 0;
            let (mut course, mut rest) = (Course::new(Task::Flash, true), seed / 2);
            for step in 0.. {
                assert!(step < 20, "it never ends: {seed}");
                let disk = disks[rest % 3];
                rest /= 3;
                match course.next(Ended::Failed, disk, late) {
                    Next::Work(_) => {}
                    Next::Leave => {
                        assert!(disk == Disk::Boots || (disk == Disk::Unfinished && course.task() == Task::Undo));
                        break;
                    }
                    Next::Stay => {
                        assert_eq!(disk, Disk::Between);
                        break;
                    }
                }
            }
        }
    }

    /// It was waited for without end: without a watchdog the node was gone until a person came.
    #[test]
    fn a_worker_that_does_not_end_and_has_not_begun_is_left_by_a_restart_whatever_the_disk_is() {
        for disk in [Disk::Boots, Disk::Between, Disk::Unfinished] {
            for task in [Task::Flash, Task::Undo] {
                assert_eq!(Course::new(task, true).next(Ended::Stuck, disk, false), Next::Leave, "{task:?}, {disk:?}");
            }
        }
    }

    /// A worker that is wrong about itself must not make the machine boot half a disk.
    #[test]
    fn the_disk_is_believed_and_not_the_worker() {
        assert_eq!(Course::new(Task::Flash, false).next(Ended::Done, Disk::Between, false), Next::Work(Task::Flash));
    }
}
