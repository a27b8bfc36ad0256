//! Compaction against a plain model: whatever is merged at whatever moment, readers see the same readings, each once.

mod parts;

use std::collections::{BTreeMap, HashMap, HashSet};

use ingest_core::catalogue::{Catalogue, Experiment};
use ingest_core::compact::{Plan, READINGS_MAX, SMALL_RUNS};
use ingest_core::pack::ENCODING_RAW;
use ingest_core::run::{DAY_US, PACKED_READINGS, SETTLED_READINGS_MIN};
use ingest_core::series::Window;
use parts::{copy_of, data_frame, drain, intake, rewritten, rows, time_field, Column, Row, Spelling, NOW_US};
use proptest::prelude::*;

const EVENTS: i32 = 2;
const DAY_BEGIN_US: i64 = NOW_US - NOW_US % DAY_US;

/// `datapoints` of one day, as the statements of webmacs/storage see it.
#[derive(Clone, Default)]
struct Table {
    runs: Vec<(i64, Row)>,
    next_id: i64,
}

fn is_loose(row: &Row) -> bool {
    row.encoding == ENCODING_RAW || row.n < SETTLED_READINGS_MIN as i32 || row.overlapping
}

impl Table {
    fn write(&mut self, new: Vec<Row>) {
        for row in new {
            self.next_id += 1;
            self.runs.push((self.next_id, row));
        }
    }

    fn of(&self, event: i32) -> impl Iterator<Item = &(i64, Row)> {
        self.runs.iter().filter(move |(_, row)| row.event == event)
    }

    /// What the compactor reads: from the oldest loose run of each event, and the run before it.
    fn stats(&self) -> Vec<u8> {
        let mut tuples = Vec::new();
        for event in 1..=EVENTS {
            let Some(oldest) = self.of(event).filter(|(_, row)| is_loose(row)).map(|(_, row)| row.created_us).min() else { continue };
            let from = self.of(event).map(|(_, row)| row.created_us).filter(|&us| us < oldest).max().unwrap_or(oldest);
            let mut runs: Vec<_> = self.of(event).filter(|(_, row)| row.created_us >= from).collect();
            runs.sort_by_key(|(id, row)| (row.created_us, *id));
            tuples.extend(runs.into_iter().map(|(_, row)| {
                vec![
                    Some(event.to_be_bytes().to_vec()),
                    time_field(row.created_us),
                    time_field(row.last_us),
                    Some(row.n.to_be_bytes().to_vec()),
                    row.experiment.map(|id| id.to_be_bytes().to_vec()),
                    Some(row.encoding.to_be_bytes().to_vec()),
                    Some(vec![u8::from(row.overlapping)]),
                ]
            }));
        }
        copy_of(tuples)
    }

    fn plan(&self, before_us: i64, thorough: bool) -> Plan {
        Plan::new(&self.stats(), before_us, thorough).unwrap()
    }

    /// What the compactor deletes, from what it saw when it planned.
    fn taken(&mut self, plan: &Plan, seen: &Table) -> Vec<u8> {
        let inside =
            |row: &Row| plan.ranges.iter().any(|range| range.event == row.event && (range.from_us..range.to_us).contains(&row.created_us));
        let taken: HashSet<(i64, i64)> = seen.runs.iter().filter(|(_, row)| inside(row)).map(|(id, row)| (*id, row.created_us)).collect();
        let (taken, left) = self.runs.drain(..).partition(|(id, row)| taken.contains(&(*id, row.created_us)));
        self.runs = left;
        copy_of(Vec::into_iter(taken).map(|(id, row): (i64, Row)| {
            vec![
                Some(row.event.to_be_bytes().to_vec()),
                time_field(row.created_us),
                Some(id.to_be_bytes().to_vec()),
                Some(row.n.to_be_bytes().to_vec()),
                Some(row.encoding.to_be_bytes().to_vec()),
                Some(vec![u8::from(row.overlapping)]),
                Some(row.payload),
            ]
        }))
    }

    /// `meanwhile` is committed between the plan and its end, and not seen by it.
    fn compact(&mut self, before_us: i64, thorough: bool, experiments: &[Experiment], meanwhile: Vec<Row>) -> usize {
        let seen = self.clone();
        let plan = seen.plan(before_us, thorough);
        self.write(meanwhile);
        let taken = self.taken(&plan, &seen);
        let merged = plan.merge(&taken, experiments).unwrap();
        let new = rewritten(&merged.rows);
        assert_eq!(merged.runs as usize, new.len());
        assert_eq!(merged.readings, new.iter().map(|(_, row)| row.n as u64).sum::<u64>());
        self.runs.extend(new);
        plan.ranges.len()
    }

    /// Every reading, as whoever decodes everything sees it.
    fn readings(&self) -> HashMap<(i32, i64), u64> {
        let mut newest: HashMap<(i32, i64), (i64, u64)> = HashMap::new();
        for (id, row) in &self.runs {
            for &(t_us, value) in &row.readings {
                let seen = newest.entry((row.event, t_us)).or_insert((*id, value.to_bits()));
                if seen.0 < *id {
                    *seen = (*id, value.to_bits());
                }
            }
        }
        newest.into_iter().map(|(key, (_, value))| (key, value)).collect()
    }

    /// (n, sum, min, max) of a window as a chart of it says, by the statements of `read_series`.
    fn chart(&self, event: i32, from_us: i64, to_us: i64, points: i64) -> (i64, f64, f64, f64) {
        let before = |marked: bool| self.of(event).filter(move |(_, row)| row.created_us < from_us && row.overlapping == marked);
        let last = before(false).max_by_key(|(_, row)| row.created_us);
        let inside = self.of(event).filter(|(_, row)| (from_us..to_us).contains(&row.created_us));
        let read: Vec<_> = last.into_iter().chain(before(true)).chain(inside).filter(|(_, row)| row.last_us >= from_us).collect();
        let integer = |value: i64| Some(value.to_be_bytes().to_vec());
        let stats = copy_of(read.iter().map(|(id, row)| {
            let mut fields = vec![time_field(row.created_us), integer(*id), time_field(row.last_us), Some(row.n.to_be_bytes().to_vec())];
            fields.extend([row.min, row.max, row.sum, row.first, row.last].map(|value| Some(value.to_be_bytes().to_vec())));
            fields.extend([Some(row.encoding.to_be_bytes().to_vec()), Some(vec![u8::from(row.overlapping)])]);
            fields
        }));
        let window = Window::new(&stats, from_us, to_us, points, false).unwrap();
        let wanted: HashSet<(i64, i64)> = window.wanted().into_iter().collect();
        let payloads = copy_of(read.iter().filter(|(id, row)| wanted.contains(&(row.created_us, *id))).map(|(id, row)| {
            vec![time_field(row.created_us), integer(*id), Some(row.encoding.to_be_bytes().to_vec()), Some(row.payload.clone())]
        }));
        let series: serde_json::Value = serde_json::from_slice(&window.series(&payloads).unwrap()).unwrap();
        let column = |name: &str| series[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
        let (n, avg, min, max) = (column("n"), column("avg"), column("min"), column("max"));
        let sum = n.iter().zip(&avg).map(|(n, avg)| n * avg).sum();
        let extremes = (min.into_iter().fold(f64::INFINITY, f64::min), max.into_iter().fold(f64::NEG_INFINITY, f64::max));
        (n.iter().sum::<f64>() as i64, sum, extremes.0, extremes.1)
    }

    fn check(&self, model: &BTreeMap<(i32, i64), f64>) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.readings(), model.iter().map(|(key, value)| (*key, value.to_bits())).collect());
        for event in 1..=EVENTS {
            let mut unmarked: Vec<_> =
                self.of(event).filter(|(_, row)| !row.overlapping).map(|(_, row)| (row.created_us, row.last_us)).collect();
            unmarked.sort_unstable();
            prop_assert!(unmarked.windows(2).all(|pair| pair[0].1 < pair[1].0), "unmarked runs overlap");
        }
        for (_, row) in &self.runs {
            let values = || row.readings.iter().map(|reading| reading.1);
            prop_assert_eq!((row.created_us, row.last_us), (row.readings[0].0, row.readings[row.readings.len() - 1].0));
            prop_assert_eq!((row.n as usize, row.sum), (row.readings.len(), values().sum::<f64>()));
            prop_assert_eq!((Some(row.first), Some(row.last)), (values().next(), values().next_back()));
            prop_assert_eq!((row.min, row.max), (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max)));
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// (event, µs into the day, step, length)
    Frame(i32, i64, i32, usize),
    Drain,
    /// (up to µs into the day, thorough, what is in the buffers is committed meanwhile)
    Compact(i64, bool, bool),
}

/// Frames in and out of order, close together, so that equal instants and chains of overlapping runs are the rule.
fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = prop_oneof![
        6 => (1..=EVENTS, 0..4000i64, 1..40i32, 1..20usize).prop_map(|(event, at, step, n)| Step::Frame(event, at, step, n)),
        3 => Just(Step::Drain),
        2 => (prop_oneof![0..6000i64, Just(DAY_US)], any::<bool>(), any::<bool>()).prop_map(|(to, all, busy)| Step::Compact(to, all, busy)),
    ];
    (proptest::collection::vec(one, 1..80), any::<bool>()).prop_map(|(mut steps, mostly_in_order)| {
        let mut clock = 0;
        for (k, step) in steps.iter_mut().enumerate() {
            if let Step::Frame(_, at, by, n) = step {
                if mostly_in_order && k % 7 != 0 {
                    *at = clock;
                }
                clock = clock.max(*at + i64::from(*by) * *n as i64);
            }
        }
        steps
    })
}

fn experiments() -> impl Strategy<Value = Vec<Experiment>> {
    let one = (0..4000i64, proptest::option::of(1..3000i64), proptest::option::of(proptest::collection::hash_set(1..=EVENTS, 0..2)));
    proptest::collection::vec(one, 0..3).prop_map(|list| {
        let numbered = list.into_iter().enumerate().map(|(k, (at, length, scope))| {
            let started_us = DAY_BEGIN_US + at;
            Experiment { id: k as i32 + 1, public_id: [k as u8; 16], started_us, stopped_us: length.map(|us| started_us + us), scope }
        });
        numbered.collect()
    })
}

fn experiment_of(experiments: &[Experiment], event: i32, t_us: i64) -> Option<i32> {
    let spans = experiments.iter().filter_map(|one| one.span(event)).filter(|span| span.from_us <= t_us && t_us < span.to_us);
    spans.map(|span| span.experiment).max()
}

fn run(steps: Vec<Step>, experiments: &[Experiment], window: (i64, i64, i64)) -> Result<(), TestCaseError> {
    let (mut core, mut table, mut seq, mut number) = (intake(EVENTS), Table::default(), 0, 0.0);
    let (mut buffered, mut stored) = (BTreeMap::new(), BTreeMap::new());
    let catalogue = Catalogue::default(); // the core knows no experiment: compaction repairs them all
    let drained = |core: &mut _, buffered: &mut BTreeMap<(i32, i64), f64>, stored: &mut BTreeMap<(i32, i64), f64>| {
        stored.append(buffered);
        drain(core, &catalogue).iter().flat_map(rows).collect::<Vec<Row>>()
    };
    for step in steps {
        match step {
            Step::Frame(event, at, by, n) => {
                let t0_us = DAY_BEGIN_US + at;
                let offsets: Vec<i32> = (0..n as i32).map(|k| k * by).collect();
                let values: Vec<f64> = offsets
                    .iter()
                    .map(|_| {
                        number += 1.0;
                        number
                    })
                    .collect();
                buffered.extend(offsets.iter().zip(&values).map(|(offset, value)| ((event, t0_us + i64::from(*offset)), *value)));
                seq += 1;
                let column = Column { channel: event.into(), t0_us, offsets, values };
                core.accept(1, &data_frame(seq, &[column], Spelling { wide: false, numbers: false }), NOW_US).unwrap().unwrap();
            }
            Step::Drain => {
                let new = drained(&mut core, &mut buffered, &mut stored);
                table.write(new);
            }
            Step::Compact(to, thorough, busy) => {
                let meanwhile = if busy { drained(&mut core, &mut buffered, &mut stored) } else { Vec::new() };
                table.compact(DAY_BEGIN_US + to, thorough, experiments, meanwhile);
            }
        }
        table.check(&stored)?;
    }
    let new = drained(&mut core, &mut buffered, &mut stored);
    table.write(new);
    let (at, length, points) = window;
    let (from_us, to_us) = (DAY_BEGIN_US + at, DAY_BEGIN_US + at + length);
    for finished in [false, true] {
        if finished {
            let rounds = (0..50).take_while(|_| table.compact(DAY_BEGIN_US + DAY_US, true, experiments, Vec::new()) > 0).count();
            prop_assert!(rounds < 50, "compaction finds no end");
        }
        table.check(&stored)?;
        for event in 1..=EVENTS {
            let inside: Vec<f64> = stored.range((event, from_us)..(event, to_us)).map(|(_, value)| *value).collect();
            let (n, sum, min, max) = table.chart(event, from_us, to_us, points);
            prop_assert_eq!(n as usize, inside.len());
            prop_assert!((sum - inside.iter().sum::<f64>()).abs() < 1e-6);
            prop_assert_eq!(min, inside.iter().copied().fold(f64::INFINITY, f64::min));
            prop_assert_eq!(max, inside.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        }
    }
    for (_, row) in &table.runs {
        prop_assert!(row.encoding != ENCODING_RAW && !row.overlapping && row.n < 2 * PACKED_READINGS as i32);
        for (t_us, _) in &row.readings {
            prop_assert_eq!(row.experiment, experiment_of(experiments, row.event, *t_us));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn compaction_changes_nothing_that_a_reader_sees(
        steps in steps(),
        experiments in experiments(),
        window in (0..4000i64, 1..3000i64, 1..60i64),
    ) {
        run(steps, &experiments, window)?;
    }
}

/// Raw runs of event 1, each of `n` readings 1 ms apart, one after the other.
fn raw_runs(count: usize, n: usize) -> Table {
    let (mut core, mut table) = (intake(EVENTS), Table::default());
    for k in 0..count {
        let t0_us = DAY_BEGIN_US + (k * n) as i64 * 1000;
        let column = Column { channel: 1, t0_us, offsets: (0..n as i32).map(|k| k * 1000).collect(), values: vec![k as f64; n] };
        core.accept(1, &data_frame(k as i64 + 1, &[column], Spelling { wide: false, numbers: false }), NOW_US).unwrap().unwrap();
        table.write(drain(&mut core, &Catalogue::default()).iter().flat_map(rows).collect());
    }
    table
}

fn lengths(table: &Table) -> Vec<i32> {
    let mut runs: Vec<_> = table.runs.iter().map(|(_, row)| (row.created_us, row.n)).collect();
    runs.sort_unstable();
    runs.into_iter().map(|(_, n)| n).collect()
}

#[test]
fn many_small_runs_become_few_of_equal_length_and_keep_the_highest_id() {
    let mut table = raw_runs(SMALL_RUNS, 200);
    assert_eq!(table.compact(DAY_BEGIN_US + DAY_US, false, &[], Vec::new()), 1);
    assert_eq!(lengths(&table), [4267, 4267, 4266]);
    assert!(table.runs.iter().all(|(id, _)| *id == SMALL_RUNS as i64));
    assert_eq!(table.compact(DAY_BEGIN_US + DAY_US, true, &[], Vec::new()), 0);
}

#[test]
fn small_packed_runs_wait_until_they_are_many_or_their_day_is_over() {
    let all_us = DAY_BEGIN_US + DAY_US;
    let mut table = raw_runs(10, 1);
    table.compact(all_us, false, &[], Vec::new());
    assert_eq!(lengths(&table), [10]);
    let mut later = raw_runs(20, 1);
    table.runs.extend(later.runs.drain(..).filter(|(id, _)| *id > 10));
    table.compact(all_us, false, &[], Vec::new());
    assert_eq!(lengths(&table), [10, 10]);
    table.compact(all_us, true, &[], Vec::new());
    assert_eq!(lengths(&table), [20]);
}

#[test]
fn a_run_that_is_not_over_yet_is_left_alone() {
    let mut table = raw_runs(10, 100);
    table.compact(table.runs[9].1.last_us, false, &[], Vec::new());
    assert_eq!(lengths(&table), [900, 100]);
}

#[test]
fn one_plan_takes_no_more_than_its_budget_and_the_next_goes_on() {
    let mut table = raw_runs(30, 60_000);
    let plan = table.plan(DAY_BEGIN_US + DAY_US, false);
    let planned: i32 = plan.ranges.iter().map(|range| range.runs as i32 * 60_000).sum();
    assert!((READINGS_MAX..READINGS_MAX + 60_000).contains(&i64::from(planned)));
    while table.compact(DAY_BEGIN_US + DAY_US, false, &[], Vec::new()) > 0 {}
    assert_eq!(lengths(&table).iter().sum::<i32>(), 30 * 60_000);
    assert!(lengths(&table).iter().all(|n| (2048..6144).contains(n)));
}

#[test]
fn a_chain_of_runs_that_is_too_long_is_merged_part_by_part() {
    let (mut core, mut table) = (intake(EVENTS), Table::default());
    let mut model = BTreeMap::new();
    for k in 0..30 {
        let (t0_us, values) = (DAY_BEGIN_US + k * 1_000_000, vec![k as f64; 60_000]);
        model.extend((0..60_000).map(|ms| ((1, t0_us + ms * 1000), k as f64)));
        let column = Column { channel: 1, t0_us, offsets: (0..60_000).map(|ms| ms * 1000).collect(), values };
        core.accept(1, &data_frame(k + 1, &[column], Spelling { wide: false, numbers: false }), NOW_US).unwrap().unwrap();
        table.write(drain(&mut core, &Catalogue::default()).iter().flat_map(rows).collect());
    }
    let plan = table.plan(DAY_BEGIN_US + DAY_US, false);
    assert!(plan.ranges[0].runs < 20 && plan.ranges[0].to_us < DAY_BEGIN_US + 20_000_000, "{plan:?}");
    while table.compact(DAY_BEGIN_US + DAY_US, false, &[], Vec::new()) > 0 {
        table.check(&model).unwrap();
    }
    assert!(lengths(&table).len() < 25, "89,000 instants");
}

#[test]
fn what_is_not_as_planned_is_an_error() {
    let table = raw_runs(5, 10);
    let plan = table.plan(DAY_BEGIN_US + DAY_US, false);
    let mut fewer = table.clone();
    fewer.runs.pop();
    let taken = fewer.clone().taken(&plan, &fewer);
    assert!(plan.merge(&taken, &[]).unwrap_err().to_string().contains("5 runs were planned"));
    let mut damaged = table.clone();
    damaged.runs[2].1.payload.truncate(20);
    let taken = damaged.clone().taken(&plan, &damaged);
    assert!(plan.merge(&taken, &[]).unwrap_err().to_string().contains("the run 3 of event 1"));
    let mut short = table.clone();
    let half = short.runs[2].1.payload.len() / 2 + 1; // of ten raw readings: it can be read, as five
    short.runs[2].1.payload.truncate(half);
    let taken = short.clone().taken(&plan, &short);
    assert!(plan.merge(&taken, &[]).unwrap_err().to_string().contains("does not hold its 10 readings"));
}
