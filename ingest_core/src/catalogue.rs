//! What exists, as the core needs to know it: events by both their ids, and experiments.

use std::collections::{HashMap, HashSet};

pub type PublicId = [u8; 16];

#[derive(Clone, Debug)]
pub struct Experiment {
    pub id: i32,
    pub public_id: PublicId,
    pub started_us: i64,
    pub stopped_us: Option<i64>,
    /// event ids; None: every event
    pub scope: Option<HashSet<i32>>,
}

/// An experiment as one event sees it: half open.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub experiment: i32,
    pub from_us: i64,
    pub to_us: i64,
}

#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    pub events: HashMap<i32, PublicId>,
    pub by_public_id: HashMap<PublicId, i32>,
    pub experiments: Vec<Experiment>,
    pub experiment_public_ids: HashMap<i32, PublicId>,
}

impl Catalogue {
    pub fn set_events(&mut self, events: &[(i32, PublicId)]) {
        self.events.clear();
        self.by_public_id.clear();
        self.add_events(events);
    }

    pub fn add_events(&mut self, events: &[(i32, PublicId)]) {
        self.events.extend(events.iter().copied());
        self.by_public_id.extend(events.iter().map(|&(id, public_id)| (public_id, id)));
    }

    pub fn set_experiments(&mut self, experiments: Vec<Experiment>) {
        self.experiment_public_ids = experiments.iter().map(|experiment| (experiment.id, experiment.public_id)).collect();
        self.experiments = experiments;
    }

    /// The experiments that touch [first_us, last_us].
    pub fn experiments_within(&self, first_us: i64, last_us: i64) -> Vec<&Experiment> {
        self.experiments.iter().filter(|experiment| experiment.started_us <= last_us && experiment.to_us() > first_us).collect()
    }
}

impl Experiment {
    fn to_us(&self) -> i64 {
        self.stopped_us.unwrap_or(i64::MAX)
    }

    /// None when `event` is outside of the scope.
    pub fn span(&self, event: i32) -> Option<Span> {
        let inside = self.scope.as_ref().is_none_or(|scope| scope.contains(&event));
        inside.then(|| Span { experiment: self.id, from_us: self.started_us, to_us: self.to_us() })
    }
}

/// Which event a series of line protocol is: what was looked up once. By writer, because two sources may call theirs the same.
#[derive(Debug, Default)]
pub struct Names {
    by_writer: HashMap<i32, HashMap<String, i32>>,
}

impl Names {
    pub fn add(&mut self, writer: i32, names: impl IntoIterator<Item = (String, i32)>) {
        self.by_writer.entry(writer).or_default().extend(names);
    }

    pub fn of_writer(&self, writer: i32) -> Option<&HashMap<String, i32>> {
        self.by_writer.get(&writer)
    }

    pub fn clear(&mut self) {
        self.by_writer.clear();
    }
}
