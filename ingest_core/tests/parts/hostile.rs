//! One message whatever it is, offered to a fresh core: the entry that mutations, the committed corpus and the fuzzer share.

use ingest_core::catalogue::Catalogue;
use ingest_core::error::Refusal;
use ingest_core::frame::{self, KIND_PREVIEW};
use ingest_core::intake::{Intake, Standpoint, TextVerdict};
use ingest_core::validate::{FUTURE_US_MAX, PAST_US_MAX};

use crate::parts::{drain, rows, NOW_US};

/// Channels and events 1 and 2 are granted, 3 is refused; their public ids end in their number.
pub fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    catalogue.set_events(&[1, 2, 3].map(|event| (i32::from(event), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, event])));
    catalogue
}

/// One of each record waits already for the next drain: memory is measured, and a table's first entry would make room for others.
pub fn core() -> Intake {
    let mut core = Intake::default();
    core.own((1, 1), &[(1, None), (2, None)], &[]);
    core.open(1, &[(1, 1), (2, 2)], &[3], Some([1, 2].into())).unwrap();
    core.accept(1, b"\x98\x05\x01\xc0\x00\x00\x00\xa8disabled\x01", NOW_US).unwrap().unwrap();
    core.accept(1, b"\x96\x06\x01\x01\x00\x00\xa4good", NOW_US).unwrap().unwrap();
    core.accept(1, b"", NOW_US).unwrap().unwrap_err();
    core
}

pub fn is_text(message: &[u8]) -> bool {
    message.first().is_some_and(|&first| first < 0x80)
}

/// As a socket would: what begins like text is a text frame, everything else is a binary one. Readings that were taken, or why none were.
pub fn offer(core: &mut Intake, catalogue: &Catalogue, message: &[u8]) -> Result<u64, Refusal> {
    match is_text(message) {
        true => match core.accept_text(1, 0, message, Standpoint { now_us: NOW_US, catalogue, names: None, named: true }).unwrap() {
            TextVerdict::Accepted(readings) => Ok(readings),
            TextVerdict::Refused(refusal) => Err(refusal),
            TextVerdict::Unowned(events) => panic!("events {events:?} are granted and owned by nobody"),
            TextVerdict::Unnamed(events) => panic!("events {events:?} were looked for already"),
        },
        false => core.accept(1, message, NOW_US).unwrap().map(|(readings, _)| readings),
    }
}

/// Drains what an offer left and holds it to the verdict: all of its readings and nothing else, or the refusal alone.
pub fn hold_to(verdict: &Result<u64, Refusal>, core: &mut Intake, catalogue: &Catalogue, message: &[u8]) {
    let segments = drain(core, catalogue);
    assert_eq!(core.buffered_bytes(), 0);
    let [segment] = &segments[..] else { panic!("{} segments", segments.len()) };
    let preview = !is_text(message) && frame::peek(message).is_ok_and(|(kind, _)| kind == KIND_PREVIEW);
    let frames = 3 + u64::from(!preview);
    assert_eq!(segment.records.frames, frames, "a preview leaves nothing, everything else a record");
    let kept = segment.records.readings;
    let refusals = segment.records.refusals.len() - 1;
    match verdict {
        Ok(readings) => {
            assert_eq!(kept, if preview { 0 } else { *readings });
            assert_eq!(refusals, 0);
        }
        Err(Refusal { detail, .. }) => {
            assert_eq!((kept, segment.rows.len()), (0, 0), "a refused frame left readings");
            assert_eq!(refusals, usize::from(!preview));
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
