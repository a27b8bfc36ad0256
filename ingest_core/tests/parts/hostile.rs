//! One message whatever it is, offered to a fresh core: the entry that mutations, the committed corpus and the fuzzer share.

use ingest_core::catalogue::Catalogue;
use ingest_core::error::Refusal;
use ingest_core::frame::{self, KIND_PREVIEW};
use ingest_core::intake::{Intake, TextVerdict};
use ingest_core::validate::{FUTURE_US_MAX, PAST_US_MAX};

use crate::parts::{drain, rows, NOW_US};

/// Channels and events 1 and 2 are granted, 3 is refused; their public ids end in their number.
pub fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue.set_events(&[1, 2, 3].map(|event| (i32::from(event), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, event])));
    catalogue
}

pub fn core() -> Intake {
    let mut core = Intake::default();
    core.own((1, 1), &[(1, None), (2, None)], &[]);
    core.open(1, &[(1, 1), (2, 2)], &[3], Some([1, 2].into())).unwrap();
    core
}

/// As a socket would: what begins like text is a text frame, everything else is a binary one. Readings that were taken, or why none were.
pub fn offer(core: &mut Intake, catalogue: &Catalogue, message: &[u8]) -> Result<u64, Refusal> {
    match message.first() {
        Some(0..=0x7f) => match core.accept_text(1, 0, message, NOW_US, catalogue).unwrap() {
            TextVerdict::Accepted(readings) => Ok(readings),
            TextVerdict::Refused(refusal) => Err(refusal),
            TextVerdict::Unowned(events) => panic!("events {events:?} are granted and owned by nobody"),
        },
        _ => core.accept(1, message, NOW_US).unwrap().map(|(readings, _)| readings),
    }
}

/// Drains what an offer left and holds it to the verdict: all of its readings and nothing else, or the refusal alone.
pub fn hold_to(verdict: &Result<u64, Refusal>, core: &mut Intake, catalogue: &Catalogue, message: &[u8]) {
    let segments = drain(core, catalogue);
    assert_eq!(core.buffered_bytes(), 0);
    let text = message.first().is_some_and(|&first| first < 0x80);
    let preview = !text && frame::peek(message).is_ok_and(|(kind, _)| kind == KIND_PREVIEW);
    if preview {
        assert!(segments.is_empty(), "a preview leaves nothing");
    } else {
        assert_eq!(segments.len(), 1);
    }
    let kept: u64 = segments.iter().map(|segment| segment.records.readings).sum();
    match verdict {
        Ok(readings) => {
            assert!(preview || kept == *readings, "{readings} readings were accepted, {kept} kept");
            assert!(segments.iter().all(|segment| segment.records.refusals.is_empty()));
        }
        Err(Refusal { detail, .. }) => {
            assert_eq!((kept, segments.iter().map(|segment| segment.rows.len()).sum::<usize>()), (0, 0), "a refused frame left readings");
            assert!(preview || segments[0].records.refusals.len() == 1);
            assert!(!detail.is_empty() && detail.chars().count() <= 300 && !detail.chars().any(char::is_control), "{detail:?}");
            assert!(!detail.contains("internal fault"), "{detail}");
        }
    }
    for segment in &segments {
        for row in rows(segment) {
            assert!(row.readings.windows(2).all(|pair| pair[0].0 < pair[1].0), "times do not increase: {row:?}");
            for &(t_us, value) in &row.readings {
                assert!((NOW_US - PAST_US_MAX..=NOW_US + FUTURE_US_MAX).contains(&t_us) && value.is_finite(), "{row:?}");
                assert!(row.min <= value && value <= row.max, "{row:?}");
            }
        }
        for &(_, _, from_us, to_us, n, _) in &segment.records.gaps {
            assert!(0 <= from_us && from_us <= to_us && to_us <= NOW_US + FUTURE_US_MAX && n >= 0);
        }
        for &(_, _, from_us, to_us, _) in &segment.records.quality {
            assert!(0 <= from_us && from_us <= to_us.unwrap_or(from_us) && to_us.unwrap_or(from_us) <= NOW_US + FUTURE_US_MAX);
        }
    }
}
