//! Room on the disk: what a run will take there, asked before it begins.

use std::path::Path;

use super::checkpoint::{self, CheckpointError, KEEP_NEWEST, MILESTONE};
use super::setup::Setup;
use crate::report::files::{check_space, free_bytes, human_bytes};

/// Bytes of a checkpoint's header for each of its tensors, and of the rest of it; rather too many.
const HEADER: u64 = 160;
const METADATA: u64 = 64 << 10;

/// What the checkpoints of a run take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes of one.
    pub checkpoint: u64,
    /// Most that lie there at a time: the newest, milestones, and the one that is being written.
    pub files: u64,
}

impl Space {
    /// That of a run from its first step to its last.
    pub fn new(setup: &Setup) -> Self {
        let table = setup.net.table();
        let (numbers, tensors) = (table.count() as u64, table.params().len() as u64);
        let config = &setup.config;
        let every = config.save_every.steps(config.batch).max(1);
        let saves = config.total_steps().div_ceil(every);
        let milestones = config.total_steps() / every.saturating_mul(MILESTONE);
        Self {
            checkpoint: 4 * (4 * numbers + HEADER * tensors) + METADATA,
            files: saves.min(KEEP_NEWEST as u64 + 1).saturating_add(milestones),
        }
    }

    /// Bytes of all of them.
    pub fn bytes(self) -> u64 {
        self.files.saturating_mul(self.checkpoint)
    }

    /// Checks that the run in `folder`, which need not be there yet, can save at all; what a person should
    /// know if not all of its checkpoints fit. Those that are there already count as paid for.
    ///
    /// # Errors
    /// Not even one fits, or the folder cannot be listed.
    pub fn check(self, folder: &Path) -> Result<Option<String>, CheckpointError> {
        let checkpoints = folder.join("checkpoints");
        check_space(&checkpoints, self.checkpoint)?;
        let there = checkpoint::list(&checkpoints)?.len() as u64;
        let needed = self
            .files
            .saturating_sub(there)
            .saturating_mul(self.checkpoint);
        let free = free_bytes(&checkpoints).filter(|&free| free < needed);
        Ok(free.map(|free| {
            format!(
                "the checkpoints of this run will take {} more ({} of {} each), and {} are free in {}; it will stop, resumable, at a save that does not fit: free some space, or raise --save-every",
                human_bytes(needed),
                self.files - there,
                human_bytes(self.checkpoint),
                human_bytes(free),
                folder.display()
            )
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::config::{DataKind, RunConfig};
    use crate::train::length::Length;

    fn setup(steps: u64, save_every: u64) -> Setup {
        let mut config = RunConfig::new(DataKind::Faces, "nano");
        (config.steps, config.save_every) = (Length::Steps(steps), Length::Steps(save_every));
        Setup::new(config, 40).unwrap()
    }

    #[test]
    fn files_are_those_that_pruning_keeps() {
        for (steps, every, files) in [
            (1, 500, 1),
            (1000, 500, 2),
            (2000, 500, 4),
            (20_000, 500, 8),
        ] {
            assert_eq!(Space::new(&setup(steps, every)).files, files, "{steps}");
        }
    }

    #[test]
    fn a_run_that_cannot_save_is_refused_and_one_that_fills_the_disk_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (run, free) = (dir.path().join("a/b"), free_bytes(dir.path()).unwrap());
        let space = |checkpoint, files| Space { checkpoint, files };
        assert_eq!(space(1000, 10).check(&run).unwrap(), None);
        let error = space(free * 2, 1).check(&run).unwrap_err().to_string();
        assert!(
            error.contains("a/b/checkpoints") && error.contains("no space"),
            "{error}"
        );
        let told = space(free / 2, 10).check(&run).unwrap().unwrap();
        assert!(
            told.contains("10 of ") && told.contains("--save-every"),
            "{told}"
        );
        let checkpoints = run.join("checkpoints");
        std::fs::create_dir_all(&checkpoints).unwrap();
        for step in 0..9 {
            std::fs::write(checkpoints.join(checkpoint::file_name(step)), "").unwrap();
        }
        assert_eq!(space(free / 2, 10).check(&run).unwrap(), None);
        assert!(!dir.path().join("a/b/c").exists());
    }
}
