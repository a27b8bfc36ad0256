//! Bodies of readings: what is written is read, and each reading is judged by itself.

mod parts;

use std::collections::{BTreeMap, HashMap};

use ingest_core::batch::{read, Batch, Channel, Form, Reading};
use ingest_core::catalogue::Catalogue;
use ingest_core::intake::{BatchVerdict, Standpoint};
use ingest_core::line::{Unit, SERIES_CHARS_MAX};
use parts::{drain, intake, rows, NOW_US};
use proptest::prelude::*;

const NS: Form = Form::LineProtocol(Unit::Nanoseconds);

/// A line as its sender means it.
#[derive(Clone, Debug)]
struct Line {
    measurement: String,
    tags: BTreeMap<String, String>,
    fields: BTreeMap<String, f64>,
    t_us: Option<i64>,
}

fn word() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9_.;:/é\"'-][ ,=a-z0-9é]{0,6}[a-z]"
}

fn line() -> impl Strategy<Value = Line> {
    let value = prop_oneof![proptest::num::f64::NORMAL, (-(1i64 << 53)..=1 << 53).prop_map(|n| n as f64)];
    let tags = proptest::collection::btree_map(word(), word(), 0..4);
    let fields = proptest::collection::btree_map(word(), value, 1..4);
    let time = proptest::option::of(NOW_US - 1_000_000..NOW_US);
    (word(), tags, fields, time).prop_map(|(measurement, tags, fields, t_us)| Line { measurement, tags, fields, t_us })
}

fn escape(text: &str, escaped: &str) -> String {
    text.chars().flat_map(|c| escaped.contains(c).then_some('\\').into_iter().chain([c])).collect()
}

fn write(line: &Line, backwards: bool) -> String {
    let Line { measurement, tags, fields, t_us } = line;
    let mut tags: Vec<String> = tags.iter().map(|(tag, value)| format!(",{}={}", escape(tag, ",= "), escape(value, ",= "))).collect();
    if backwards {
        tags.reverse();
    }
    let number = |value: f64| match value.fract() == 0.0 && value.abs() <= 2f64.powi(53) && value.to_bits().is_multiple_of(2) {
        true => format!("{}i", value as i64),
        false => format!("{value:?}"),
    };
    let fields: Vec<String> = fields.iter().map(|(field, value)| format!("{}={}", escape(field, ",= "), number(*value))).collect();
    let time = t_us.map_or(String::new(), |t_us| format!(" {t_us}000"));
    format!("{}{} {}{time}", escape(measurement, ", "), tags.concat(), fields.join(","))
}

fn series(line: &Line, field: &str) -> String {
    let tags: String = line.tags.iter().map(|(tag, value)| format!(";{}={}", escape(tag, ";=\\"), escape(value, ";\\"))).collect();
    format!("{}.{}{tags}", escape(&line.measurement, ";\\"), escape(field, ";.\\"))
}

/// (line, series, value, time) of each reading.
fn told(batch: &Batch) -> Vec<(u32, String, u64, Option<i64>)> {
    let told = batch.readings.iter().map(|&Reading { channel, position, t_us, value }| {
        let Channel::Series(name) = &batch.channels[channel as usize] else { panic!("line protocol has no public ids") };
        (position, name.clone(), value.to_bits(), t_us)
    });
    told.collect()
}

/// Measurement, field, tag and value of what parts the parts of a name.
fn parts() -> impl Strategy<Value = (String, String, String, String)> {
    ("[a.;\\\\]{0,3}a", part(), part(), part())
}

fn part() -> impl Strategy<Value = String> {
    "[a.;=\\\\]{0,3}a"
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lines_are_read_as_they_were_meant(lines in proptest::collection::vec((line(), any::<bool>()), 0..8), end in "(\n|\r\n|)") {
        let body = lines.iter().map(|(line, backwards)| write(line, *backwards)).collect::<Vec<_>>().join("\n") + &end;
        let batch = read(NS, body.as_bytes()).unwrap();
        prop_assert_eq!(batch.refused.count, 0, "{:?}", batch.refused);
        let meant: Vec<_> = (0..).zip(&lines).flat_map(|(position, (line, _))| {
            line.fields.iter().map(move |(field, value)| (position, series(line, field), value.to_bits(), line.t_us))
        }).collect();
        prop_assert_eq!(told(&batch), meant, "{}", body);
        let mut names: Vec<_> = batch.channels.iter().map(|channel| format!("{channel:?}")).collect();
        names.sort();
        names.dedup();
        prop_assert!(names.len() <= batch.channels.len());
    }

    #[test]
    fn two_series_have_two_names(first in parts(), second in parts()) {
        let line = |(measurement, field, tag, value): &(String, String, String, String)| Line {
            measurement: measurement.clone(),
            tags: [(tag.clone(), value.clone())].into(),
            fields: [(field.clone(), 1.0)].into(),
            t_us: None,
        };
        let body = format!("{}\n{}", write(&line(&first), false), write(&line(&second), false));
        let told = told(&read(NS, body.as_bytes()).unwrap());
        prop_assert_eq!(told.len(), 2, "{}", body);
        prop_assert_eq!(told[0].1 == told[1].1, first == second, "{}", body);
    }

    #[test]
    fn a_broken_line_costs_itself_only(lines in proptest::collection::vec(line(), 1..6), broken in 0usize..6, with in prop_oneof![
        Just("m"), Just("m f"), Just("m f="), Just("m f=x"), Just("m f=1 x"), Just("m f=1 1 1"), Just(",a=b f=1"), Just("m,a f=1"),
        Just("m,a= f=1"), Just("m,=b f=1"), Just("m,a=1,a=2 f=1"), Just("m =1"), Just("m f=1,,g=2"), Just("m f=1, g=2"), Just("m f=--1"),
        Just("m f=0x10"), Just("m f=1_000"), Just("m f=inf"), Just("m f=-nan"), Just("m f=1.0i"), Just("m f=1e3 9223372036854775808"),
    ]) {
        let broken = broken % lines.len();
        let mut text: Vec<String> = lines.iter().map(|line| write(line, false)).collect();
        text[broken] = with.into();
        let batch = read(NS, text.join("\n").as_bytes()).unwrap();
        let positions: Vec<u32> = batch.refused.listed.iter().map(|(position, _)| *position).collect();
        prop_assert_eq!(positions, vec![broken as u32], "{}", with);
        let kept: usize = lines.iter().enumerate().filter(|(k, _)| *k != broken).map(|(_, line)| line.fields.len()).sum();
        prop_assert_eq!(batch.readings.len(), kept);
    }

    #[test]
    fn of_items_the_good_are_kept_whatever_stands_beside_them(items in proptest::collection::vec(proptest::option::of(-1e9..1e9f64), 0..20)) {
        let item = |item: &Option<f64>| match item {
            Some(value) => format!("{{\"event_public_id\": \"00000000-0000-0000-0000-000000000001\", \"value\": {value}}}"),
            None => "{\"value\": 1e400}".into(),
        };
        let texts: Vec<String> = items.iter().map(item).collect();
        let batch = read(Form::Json, format!("{{\"datapoints\": [{}]}}", texts.join(", ")).as_bytes()).unwrap();
        let lines = read(Form::Lines, texts.join("\n").as_bytes()).unwrap();
        prop_assert_eq!(&batch.readings, &lines.readings);
        let kept: Vec<_> = batch.readings.iter().map(|reading| (reading.position as usize, reading.value)).collect();
        let meant: Vec<_> = items.iter().enumerate().filter_map(|(k, item)| item.map(|value| (k, value))).collect();
        prop_assert_eq!(kept, meant);
        prop_assert_eq!(batch.refused.count, items.len() - batch.readings.len());
    }
}

#[test]
fn values_have_the_forms_of_influxdb() {
    let cases = [
        ("1", Some(1.0)),
        ("-1.5", Some(-1.5)),
        ("1e3", Some(1000.0)),
        ("1E-3", Some(0.001)),
        ("+2", Some(2.0)),
        (".5", Some(0.5)),
        ("7i", Some(7.0)),
        ("-7i", Some(-7.0)),
        ("7u", Some(7.0)),
        ("t", Some(1.0)),
        ("FALSE", Some(0.0)),
        ("9007199254740992i", Some(9_007_199_254_740_992.0)),
        ("-9007199254740992i", Some(-9_007_199_254_740_992.0)),
        ("9007199254740993i", None),
        ("-9007199254740993i", None),
        ("18446744073709551615u", None),
        ("99999999999999999999i", None),
        ("1e400", None),
        ("\"text\"", None),
        ("\"a, b = c \\\" d\ne\"", None),
    ];
    for (written, value) in cases {
        let batch = read(NS, format!("m f={written},g=2 5000\nm h=3").as_bytes()).unwrap();
        let values: Vec<f64> = batch.readings.iter().map(|reading| reading.value).collect();
        assert_eq!(values, value.into_iter().chain([2.0, 3.0]).collect::<Vec<_>>(), "{written}");
        assert_eq!(batch.refused.count, usize::from(value.is_none()));
    }
}

#[test]
fn times_are_rounded_to_the_microsecond() {
    for (unit, written, t_us) in [
        (Unit::Nanoseconds, "1499", 1),
        (Unit::Nanoseconds, "1500", 2),
        (Unit::Nanoseconds, "-1500", -1),
        (Unit::Microseconds(1_000), "5", 5_000),
        (Unit::Microseconds(3_600_000_000), "9223372036854775807", i64::MAX),
    ] {
        let batch = read(Form::LineProtocol(unit), format!("m f=1 {written}").as_bytes()).unwrap();
        assert_eq!(batch.readings[0].t_us, Some(t_us), "{written} {unit:?}");
    }
}

#[test]
fn a_name_is_as_long_as_an_events_may_be() {
    for (chars, refused) in [(SERIES_CHARS_MAX, 0), (SERIES_CHARS_MAX + 1, 1)] {
        let batch = read(NS, format!("{} f=1", "é".repeat(chars - 2)).as_bytes()).unwrap();
        assert_eq!((batch.readings.len(), batch.refused.count), (1 - refused, refused), "{chars}");
    }
    for text in [&b"m\x01 f=1"[..], b"m\xff f=1", b"m,a=\x00 f=1"] {
        assert_eq!(read(NS, text).unwrap().refused.count, 1, "{text:?}");
    }
}

#[test]
fn a_batch_asks_for_names_once_and_then_refuses_what_has_none() {
    let mut core = intake(2);
    core.open(7, &[], &[], Some([1].into())).unwrap();
    let batch = read(NS, b"m a=1,b=2,c=3").unwrap();
    let catalogue = Catalogue::default();
    let names = HashMap::from([("m.a".to_owned(), 1), ("m.b".to_owned(), 2)]);
    let asked = Standpoint { now_us: NOW_US, catalogue: &catalogue, names: Some(&names), named: false };
    let BatchVerdict::Unnamed(unnamed) = core.accept_batch(7, 0, &batch, asked).unwrap() else { panic!("m.c is not known") };
    assert_eq!(unnamed, [Channel::Series("m.c".into())]);
    let BatchVerdict::Taken(taken, refused) = core.accept_batch(7, 0, &batch, Standpoint { named: true, ..asked }).unwrap() else {
        panic!("all that can be named is")
    };
    let codes: Vec<_> = refused.listed.iter().map(|(_, refusal)| refusal.code.name()).collect();
    assert_eq!((taken, codes), (1, vec!["not_granted", "unknown_channel"]));
    let segments = drain(&mut core, &catalogue);
    assert_eq!(segments.iter().flat_map(rows).map(|row| (row.event, row.readings)).collect::<Vec<_>>(), [(1, vec![(NOW_US, 1.0)])]);
    assert!(segments.iter().all(|segment| segment.records.refusals.is_empty()));
}
