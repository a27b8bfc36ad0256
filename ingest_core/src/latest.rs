//! The last committed reading of each event, and the views that wait for the next tick.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::catalogue::Catalogue;
use crate::json::{push_float, push_int, push_public_id, push_time};
use crate::panic;
use crate::run::Extremes;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Last {
    pub t_us: i64,
    pub value: f64,
    pub experiment: Option<i32>,
}

/// What one segment brought to one event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Brought {
    pub event: i32,
    /// the newest by time
    pub last: Last,
    pub extremes: Extremes,
    pub n: u64,
}

type Filter = Option<HashSet<i32>>;

fn passes(filter: &Filter, event: i32) -> bool {
    filter.as_ref().is_none_or(|events| events.contains(&event))
}

#[derive(Clone, Debug, Default)]
struct Waiting {
    committed: HashMap<i32, (Last, Extremes, u64)>,
    previews: HashMap<i32, (i64, f64)>,
}

/// What came to some events since it was last taken. It is conflated per event, so it is never larger than the catalogue.
#[derive(Debug)]
pub struct View {
    filter: Filter,
    waiting: Mutex<Waiting>,
}

impl View {
    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits as JSON, and begins anew.
    pub fn take(&self, catalogue: &Catalogue) -> Option<Vec<u8>> {
        let Waiting { committed, previews } = std::mem::take(&mut *self.waiting());
        if committed.is_empty() && previews.is_empty() {
            return None;
        }
        let mut committed: Vec<_> = committed.into_iter().collect();
        committed.sort_unstable_by_key(|(event, _)| *event);
        let mut out = Vec::with_capacity(64 + 256 * committed.len() + 128 * previews.len());
        out.extend_from_slice(b"{\"type\":\"datapoints_batch\",\"datapoints\":[");
        let entries = committed.iter().map(|&(event, (last, extremes, n))| Brought { event, last, extremes, n });
        push_datapoints(&mut out, entries, catalogue);
        out.push(b']');
        if !previews.is_empty() {
            let mut previews: Vec<_> = previews.into_iter().collect();
            previews.sort_unstable_by_key(|(event, _)| *event);
            push_previews(&mut out, &previews, catalogue);
        }
        out.push(b'}');
        Some(out)
    }
}

#[derive(Debug, Default)]
pub struct Latest {
    last: HashMap<i32, Last>,
    views: Vec<Weak<View>>,
}

impl Latest {
    /// The last reading of these events (None: of all) is what `latest` says, or they have none. It may be older than what was last: a
    /// deleted reading must not be shown any more, neither by what waits in the views.
    pub fn set(&mut self, events: &Filter, latest: impl IntoIterator<Item = (i32, Last)>) {
        self.last.retain(|event, _| !passes(events, *event));
        self.last.extend(latest);
        for view in self.views.iter().filter_map(Weak::upgrade) {
            view.waiting().committed.retain(|event, waiting| {
                let last = self.last.get(event);
                waiting.0 = last.copied().unwrap_or(waiting.0);
                last.is_some()
            });
        }
    }

    pub fn view(&mut self, filter: Filter) -> Arc<View> {
        self.register(filter, Waiting::default())
    }

    /// A view of the same events that holds the same.
    pub fn fork(&mut self, view: &View) -> Arc<View> {
        let waiting = view.waiting().clone();
        self.register(view.filter.clone(), waiting)
    }

    fn register(&mut self, filter: Filter, waiting: Waiting) -> Arc<View> {
        let view = Arc::new(View { filter, waiting: Mutex::new(waiting) });
        self.views.retain(|view| view.strong_count() > 0);
        self.views.push(Arc::downgrade(&view));
        view
    }

    /// Tells the views what was committed. An older reading that came late does not replace a newer last one.
    pub fn commit(&mut self, brought: &[Brought]) {
        panic::point("showing");
        for one in brought {
            let last = self.last.entry(one.event).or_insert(one.last);
            if one.last.t_us >= last.t_us {
                *last = one.last;
            }
        }
        for view in self.views.iter().filter_map(Weak::upgrade) {
            let mut waiting = view.waiting();
            for one in brought.iter().filter(|one| passes(&view.filter, one.event)) {
                let (last, extremes, n) = waiting.committed.entry(one.event).or_insert((one.last, Extremes::NONE, 0));
                *last = self.last[&one.event];
                extremes.join(one.extremes);
                *n += one.n;
            }
        }
    }

    /// Shows (event, t_us, value) that are not stored.
    pub fn preview(&mut self, previews: &[(i32, i64, f64)]) {
        for view in self.views.iter().filter_map(Weak::upgrade) {
            let mut waiting = view.waiting();
            for &(event, t_us, value) in previews.iter().filter(|(event, ..)| passes(&view.filter, *event)) {
                let newest = waiting.previews.entry(event).or_insert((t_us, value));
                if t_us >= newest.0 {
                    *newest = (t_us, value);
                }
            }
        }
    }

    pub fn snapshot(&self, filter: &Filter, catalogue: &Catalogue) -> Vec<u8> {
        let mut last: Vec<_> = self.last.iter().filter(|(event, _)| passes(filter, **event)).collect();
        last.sort_unstable_by_key(|(event, _)| **event);
        let mut out = Vec::with_capacity(64 + 256 * last.len());
        out.extend_from_slice(b"{\"type\":\"snapshot\",\"datapoints\":[");
        let entries = last.into_iter().map(|(&event, &last)| {
            let extremes = Extremes { min: last.value, max: last.value };
            Brought { event, last, extremes, n: 1 }
        });
        push_datapoints(&mut out, entries, catalogue);
        out.extend_from_slice(b"]}");
        out
    }
}

/// Events that the catalogue does not know any more are left out.
fn push_datapoints(out: &mut Vec<u8>, entries: impl Iterator<Item = Brought>, catalogue: &Catalogue) {
    let mut comma = false;
    for Brought { event, last, extremes, n } in entries {
        let Some(public_id) = catalogue.events.get(&event) else { continue };
        push_head(out, &mut comma, public_id, last.t_us, last.value);
        out.extend_from_slice(b",\"min\":");
        push_float(out, extremes.min);
        out.extend_from_slice(b",\"max\":");
        push_float(out, extremes.max);
        out.extend_from_slice(b",\"n\":");
        push_int(out, n as i64);
        out.extend_from_slice(b",\"experiment_public_id\":");
        match last.experiment.and_then(|id| catalogue.experiment_public_ids.get(&id)) {
            Some(public_id) => push_public_id(out, public_id),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
}

fn push_previews(out: &mut Vec<u8>, previews: &[(i32, (i64, f64))], catalogue: &Catalogue) {
    out.extend_from_slice(b",\"previews\":[");
    let mut comma = false;
    for &(event, (t_us, value)) in previews {
        let Some(public_id) = catalogue.events.get(&event) else { continue };
        push_head(out, &mut comma, public_id, t_us, value);
        out.push(b'}');
    }
    out.push(b']');
}

fn push_head(out: &mut Vec<u8>, comma: &mut bool, public_id: &[u8; 16], t_us: i64, value: f64) {
    if std::mem::replace(comma, true) {
        out.push(b',');
    }
    out.extend_from_slice(b"{\"event_public_id\":");
    push_public_id(out, public_id);
    out.extend_from_slice(b",\"timestamp\":");
    push_time(out, t_us);
    out.extend_from_slice(b",\"value\":");
    push_float(out, value);
}
