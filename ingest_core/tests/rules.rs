//! Rules against a plain model that looks at every reading.

mod parts;

use std::collections::HashMap;

use ingest_core::catalogue::Catalogue;
use ingest_core::rule::Test;
use parts::{data_frame, drain, intake, Column, Spelling, NOW_US};
use proptest::prelude::*;

const OPERATORS: [&str; 7] = ["gt", "lt", "gte", "lte", "eq", "between", "not_between"];

fn holds(operator: &str, low: f64, high: f64, value: f64) -> bool {
    match operator {
        "gt" => value > low,
        "lt" => value < low,
        "gte" => value >= low,
        "lte" => value <= low,
        "eq" => value == low,
        "between" => (low..=high).contains(&value),
        _ => !(low..=high).contains(&value),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_reading_is_seen_once_and_in_order(
        rules in proptest::collection::vec((1..3i32, 0..OPERATORS.len(), 0..6i32, 0..4i32), 0..6),
        frames in proptest::collection::vec((1..3i32, 0..60i64, proptest::collection::vec(0..7i32, 1..8)), 1..30),
        fired in proptest::collection::hash_set(0..6i32, 0..4),
    ) {
        let rules: Vec<_> = rules.into_iter().enumerate().map(|(id, (event, operator, low, width))| {
            (id as i32, event, OPERATORS[operator], f64::from(low), f64::from(low + width))
        }).collect();
        let mut core = intake(2);
        let compiled: Vec<_> = rules.iter().map(|&(id, event, operator, low, high)| {
            let upper = operator.ends_with("between").then_some(high);
            (id, event, Test::compile(operator, low, upper).unwrap())
        }).collect();
        core.set_rules(&compiled);
        core.own((1, 2), &[(1, Some(NOW_US)), (2, None)], &fired.iter().copied().collect::<Vec<_>>());

        let mut state: HashMap<i32, bool> = rules.iter().map(|rule| (rule.0, fired.contains(&rule.0))).collect();
        let mut evaluated = HashMap::from([(1, NOW_US), (2, i64::MIN)]);
        let (mut expected, mut seen) = (Vec::new(), Vec::new());
        for (k, (event, ahead, values)) in frames.iter().enumerate() {
            for (position, &value) in values.iter().enumerate() {
                let t_us = NOW_US + ahead + position as i64;
                if t_us <= evaluated[event] {
                    continue;
                }
                evaluated.insert(*event, t_us);
                for &(id, of, operator, low, high) in rules.iter().filter(|rule| rule.1 == *event) {
                    let now = holds(operator, low, high, value.into());
                    if now != state[&id] {
                        state.insert(id, now);
                        expected.push((id, of, now, t_us, f64::from(value)));
                    }
                }
            }
            let offsets = (0..values.len() as i32).collect();
            let column = Column { channel: (*event).into(), t0_us: NOW_US + ahead, offsets, values: values.iter().map(|&v| v.into()).collect() };
            core.accept(1, &data_frame(k as i64 + 1, &[column], Spelling { wide: false, numbers: k % 2 == 0 }), NOW_US).unwrap().unwrap();
            if k % 5 == 0 {
                core.set_rules(&compiled); // the same rules keep their state
            }
            if k % 7 == 0 {
                seen.extend(drain(&mut core, &Catalogue::default()).into_iter().flat_map(|segment| segment.records.transitions));
            }
        }
        seen.extend(drain(&mut core, &Catalogue::default()).into_iter().flat_map(|segment| segment.records.transitions));
        let seen: Vec<_> = seen.into_iter().map(|one| (one.rule, one.event, one.fired, one.t_us, one.value)).collect();
        prop_assert_eq!(seen, expected);
    }
}
