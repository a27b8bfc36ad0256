//! Charts against a plain model: whatever was written in whatever order, each bucket is exact for the time that it names.

mod parts;

use std::collections::{BTreeMap, HashSet};

use ingest_core::catalogue::Catalogue;
use ingest_core::series::Window;
use parts::{copy_of, data_frame, drain, intake, rows, time_field, Column, Row, Spelling, NOW_US};
use proptest::prelude::*;

fn stats(rows: &[Row]) -> Vec<u8> {
    copy_of(rows.iter().enumerate().map(|(id, row)| {
        let float = |value: f64| Some(value.to_be_bytes().to_vec());
        let id = (id as i64).to_be_bytes().to_vec();
        let mut fields = vec![time_field(row.created_us), Some(id), time_field(row.last_us), Some(row.n.to_be_bytes().to_vec())];
        fields.extend([row.min, row.max, row.sum, row.first, row.last].map(float));
        fields.extend([Some(row.encoding.to_be_bytes().to_vec()), Some(vec![u8::from(row.overlapping)])]);
        fields
    }))
}

fn payloads(rows: &[Row], wanted: &[(i64, i64)]) -> Vec<u8> {
    copy_of(wanted.iter().map(|&(created_us, id)| {
        let row = &rows[id as usize];
        assert_eq!(row.created_us, created_us);
        let encoding = row.encoding.to_be_bytes().to_vec();
        vec![time_field(created_us), Some(id.to_be_bytes().to_vec()), Some(encoding), Some(row.payload.clone())]
    }))
}

/// Rows of event 1 from frames of (µs ahead, step, values), drained after the frames in `drains`.
fn written(frames: &[(i64, i32, Vec<i32>)], drains: &HashSet<usize>) -> Vec<Row> {
    let mut core = intake(1);
    let mut written = Vec::new();
    for (k, (ahead, step, values)) in frames.iter().enumerate() {
        let offsets = (0..values.len() as i32).map(|k| k * step).collect();
        let column = Column { channel: 1, t0_us: NOW_US + ahead, offsets, values: values.iter().map(|&v| v.into()).collect() };
        core.accept(1, &data_frame(k as i64 + 1, &[column], Spelling { wide: false, numbers: false }), NOW_US).unwrap().unwrap();
        if drains.contains(&k) || k + 1 == frames.len() {
            written.extend(drain(&mut core, &Catalogue::default()).iter().flat_map(rows));
        }
    }
    written
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_chart_counts_every_reading_of_its_window_once(
        frames in proptest::collection::vec((0..2000i64, 1..40i32, proptest::collection::vec(-9..9i32, 1..10)), 1..30),
        drains in proptest::collection::hash_set(0..30usize, 0..30),
        (from, length, max_points) in (-100..2000i64, 1..1500i64, 1..60i64),
        grid in any::<bool>(),
        in_order in any::<bool>(),
    ) {
        let mut frames = frames;
        if in_order {
            frames.sort();
        }
        let rows = written(&frames, &drains);
        let (from_us, to_us) = (NOW_US + from, NOW_US + from + length);
        let window = Window::new(&stats(&rows), from_us, to_us, max_points, grid).unwrap();
        let json = window.series(&payloads(&rows, &window.wanted())).unwrap();
        let series: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let ints = |name: &str| series[name].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect::<Vec<_>>();
        let floats = |name: &str| series[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();

        let mut model: BTreeMap<i64, f64> = BTreeMap::new();
        rows.iter().flat_map(|row| &row.readings).for_each(|&(t_us, value)| { model.insert(t_us, value); });
        let inside: Vec<(i64, f64)> = model.range(from_us..to_us).map(|(t_us, value)| (*t_us, *value)).collect();
        let (t0, t1, n) = (ints("t0"), ints("t1"), ints("n"));
        let (min, max, avg, last) = (floats("min"), floats("max"), floats("avg"), floats("last"));
        prop_assert!(t0.len() as i64 <= max_points);
        prop_assert_eq!(n.iter().sum::<i64>() as usize, inside.len());
        let mut rest = &inside[..];
        for k in 0..t0.len() {
            let (own, later) = rest.split_at(n[k] as usize);
            rest = later;
            prop_assert_eq!((own[0].0, own[own.len() - 1].0), (t0[k], t1[k]));
            prop_assert_eq!(own[own.len() - 1].1, last[k]);
            prop_assert_eq!(own.iter().map(|r| r.1).fold(f64::INFINITY, f64::min), min[k]);
            prop_assert_eq!(own.iter().map(|r| r.1).fold(f64::NEG_INFINITY, f64::max), max[k]);
            prop_assert_eq!(own.iter().map(|r| r.1).sum::<f64>() / own.len() as f64, avg[k]);
            let bucket = |t_us: i64| (t_us - from_us) * max_points / length;
            if grid {
                prop_assert_eq!(bucket(t0[k]), bucket(t1[k]));
            }
            if k > 0 {
                prop_assert!(bucket(t0[k - 1]) < bucket(t0[k]));
            }
        }
    }
}

#[test]
fn statistics_alone_answer_for_runs_that_are_apart_and_inside() {
    let frames: Vec<_> = (0..10).map(|k| (k * 100, 10, vec![k as i32; 5])).collect();
    let rows = written(&frames, &(0..10).collect());
    let window = Window::new(&stats(&rows), NOW_US, NOW_US + 1000, 10, false).unwrap();
    assert!(window.wanted().is_empty());
    assert_eq!(rows.len(), 10);
    let cut = Window::new(&stats(&rows), NOW_US + 20, NOW_US + 1000, 10, false).unwrap();
    assert_eq!(cut.wanted(), [(rows[0].created_us, 0)]);
}

#[test]
fn what_cannot_be_read_back_is_said_with_its_place() {
    let rows = written(&[(0, 10, vec![1, 2, 3])], &HashSet::new());
    let window = Window::new(&stats(&rows), NOW_US + 5, NOW_US + 1000, 10, false).unwrap();
    let error = |payloads: &[u8]| window.series(payloads).unwrap_err().to_string();
    assert!(error(b"").contains(&format!("run 0 of {NOW_US}")), "{}", error(b""));
    for damage in [b"".to_vec(), b"\x01".to_vec(), b"\x02".to_vec(), rows[0].payload[..20].to_vec()] {
        let mut damaged = rows.clone();
        damaged[0].payload = damage;
        assert!(error(&payloads(&damaged, &window.wanted())).contains("run 0 of"));
    }
    let mut shorter = rows.clone();
    shorter[0].payload = written(&[(0, 10, vec![1, 2])], &HashSet::new())[0].payload.clone();
    assert!(error(&payloads(&shorter, &window.wanted())).contains("does not hold its 3 readings"));
    for cut in 0..stats(&rows).len() {
        assert!(Window::new(&stats(&rows)[..cut], NOW_US, NOW_US + 1, 10, false).is_err());
    }
}
