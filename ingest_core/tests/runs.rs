//! Runs against a plain model: nothing lost, nothing twice, cut where they must be, marked where they might overlap.

mod parts;

use std::collections::{HashMap, HashSet};

use ingest_core::catalogue::{Catalogue, Experiment};
use ingest_core::run::{cut, DAY_US, RUN_READINGS_MAX, RUN_SPAN_US_MAX};
use parts::{data_frame, drain, intake, rows, stored, Column, Spelling, NOW_US};
use proptest::prelude::*;

const PLAIN: Spelling = Spelling { wide: false, numbers: false };
const EVENTS: i32 = 3;
/// NOW_US is 8:00, so that this touches midnight.
const SPREAD_US: i64 = 10 * 3600 * 1_000_000;

fn frames() -> impl Strategy<Value = Vec<(i32, i64, Vec<i32>)>> {
    let column = (1..=EVENTS, -SPREAD_US..SPREAD_US, proptest::collection::btree_set(0..2_000_000_000i32, 1..12));
    proptest::collection::vec(column.prop_map(|(event, ahead, offsets)| (event, NOW_US + ahead, offsets.into_iter().collect())), 1..25)
}

/// Frames that lie close together, so that equal instants and late readings are the rule.
fn crowded_frames() -> impl Strategy<Value = Vec<(i32, i64, Vec<i32>)>> {
    let column = (1..=EVENTS, 0..30i64, proptest::collection::btree_set(0..20i32, 1..8));
    proptest::collection::vec(column.prop_map(|(event, ahead, offsets)| (event, NOW_US + ahead, offsets.into_iter().collect())), 1..25)
}

fn experiments() -> impl Strategy<Value = Vec<Experiment>> {
    let one =
        (-SPREAD_US..SPREAD_US, proptest::option::of(1..SPREAD_US), proptest::option::of(proptest::collection::hash_set(1..=EVENTS, 0..3)));
    proptest::collection::vec(one, 0..4).prop_map(|list| {
        let numbered = list.into_iter().enumerate();
        numbered
            .map(|(k, (ahead, length, scope))| {
                let started_us = NOW_US + ahead;
                Experiment { id: k as i32 + 1, public_id: [k as u8; 16], started_us, stopped_us: length.map(|us| started_us + us), scope }
            })
            .collect()
    })
}

fn experiment_of(experiments: &[Experiment], event: i32, t_us: i64) -> Option<i32> {
    let holds = |one: &&Experiment| {
        one.started_us <= t_us && one.stopped_us.is_none_or(|us| t_us < us) && one.scope.as_ref().is_none_or(|scope| scope.contains(&event))
    };
    experiments.iter().filter(holds).map(|one| one.id).max()
}

fn check(frames: Vec<(i32, i64, Vec<i32>)>, experiments: Vec<Experiment>, drains: &HashSet<usize>) -> Result<(), TestCaseError> {
    let mut catalogue = Catalogue::default();
    catalogue.set_experiments(experiments.clone());
    let mut core = intake(EVENTS);
    let (mut model, mut written, mut number) = (HashMap::new(), Vec::new(), 0.0);
    let last = frames.len() - 1;
    for (k, (event, t0_us, offsets)) in frames.into_iter().enumerate() {
        let values: Vec<f64> = offsets
            .iter()
            .map(|_| {
                number += 1.0;
                number
            })
            .collect();
        for (offset, value) in offsets.iter().zip(&values) {
            model.insert((event, t0_us + i64::from(*offset)), value.to_bits());
        }
        let column = Column { channel: event.into(), t0_us, offsets, values };
        core.accept(1, &data_frame(k as i64 + 1, &[column], PLAIN), NOW_US).unwrap().unwrap();
        if k == last || drains.contains(&k) {
            for segment in drain(&mut core, &catalogue) {
                prop_assert_eq!(segment.runs as usize, rows(&segment).len());
                prop_assert_eq!(
                    segment.brought.iter().map(|one| one.n).sum::<u64>(),
                    rows(&segment).iter().map(|row| row.n as u64).sum::<u64>()
                );
                written.extend(rows(&segment));
            }
        }
    }
    prop_assert_eq!(stored(&written), model);
    for (k, row) in written.iter().enumerate() {
        let values: Vec<f64> = row.readings.iter().map(|(_, value)| *value).collect();
        prop_assert_eq!((row.created_us, row.last_us), (row.readings[0].0, row.readings[values.len() - 1].0));
        prop_assert_eq!((row.n as usize, row.first, row.last), (values.len(), values[0], values[values.len() - 1]));
        prop_assert_eq!(row.sum, values.iter().sum::<f64>()); // small integers: exact in any order
        prop_assert_eq!(row.min, values.iter().copied().fold(f64::INFINITY, f64::min));
        prop_assert_eq!(row.max, values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        prop_assert_eq!(row.created_us.div_euclid(DAY_US), row.last_us.div_euclid(DAY_US));
        prop_assert!(row.last_us - row.created_us <= RUN_SPAN_US_MAX && values.len() <= RUN_READINGS_MAX);
        for (t_us, _) in &row.readings {
            prop_assert_eq!(row.experiment, experiment_of(&experiments, row.event, *t_us));
        }
        let before = || written[..k].iter().filter(|earlier| earlier.event == row.event);
        let after_all = before().all(|earlier| earlier.last_us < row.created_us);
        prop_assert_eq!(row.overlapping, !after_all);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn runs_hold_what_came(
        frames in frames(),
        experiments in experiments(),
        drains in proptest::collection::hash_set(0..25usize, 0..6),
    ) {
        check(frames, experiments, &drains)?;
    }

    #[test]
    fn of_equal_instants_the_newest_written_stays(frames in crowded_frames(), drains in proptest::collection::hash_set(0..25usize, 0..10)) {
        check(frames, Vec::new(), &drains)?;
    }
}

#[test]
fn a_run_ends_at_the_number_of_readings_and_at_the_span_that_a_payload_holds() {
    let lengths = |times: &[i64]| {
        let mut lengths = Vec::new();
        cut(times, &vec![0.0; times.len()], &[], |run| lengths.push(run.times.len()));
        lengths
    };
    let dense: Vec<i64> = (0..RUN_READINGS_MAX as i64 + 1).map(|k| NOW_US + k).collect();
    assert_eq!(lengths(&dense[..RUN_READINGS_MAX]), [RUN_READINGS_MAX]);
    assert_eq!(lengths(&dense), [RUN_READINGS_MAX, 1]);
    assert_eq!(lengths(&[NOW_US, NOW_US + RUN_SPAN_US_MAX]), [2]);
    assert_eq!(lengths(&[NOW_US, NOW_US + RUN_SPAN_US_MAX + 1]), [1, 1]);
    let midnight = (NOW_US / DAY_US + 1) * DAY_US;
    assert_eq!(lengths(&[midnight - 2, midnight - 1, midnight]), [2, 1]);
}

#[test]
fn an_event_taken_over_while_a_drain_encodes_keeps_its_new_frontier() {
    let mut core = intake(1);
    let column = |t0_us| Column { channel: 1, t0_us, offsets: vec![0], values: vec![1.0] };
    let catalogue = Catalogue::default();
    core.accept(1, &data_frame(1, &[column(NOW_US + 100)], PLAIN), NOW_US).unwrap().unwrap();
    let taken = core.drain();
    core.own((1, 2), &[(1, Some(NOW_US))], &[]);
    core.settle(ingest_core::drain::encode(taken, &catalogue).1);
    core.accept(1, &data_frame(1, &[column(NOW_US + 50)], PLAIN), NOW_US).unwrap().unwrap();
    let segments = drain(&mut core, &catalogue);
    assert!(!rows(&segments[0])[0].overlapping);
    assert_eq!(segments[0].records.writers, [(1, 2)]);
}
