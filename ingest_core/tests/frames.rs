//! What goes in comes out, and no bytes whatever do harm.

mod parts;

use ingest_core::catalogue::Catalogue;
use ingest_core::frame::{decode, offset, Frame, Times};
use ingest_core::text::Item;
use parts::{data_frame, drain, intake, rows, stored, Column, Spelling, NOW_US};
use proptest::prelude::*;

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![proptest::num::f64::NORMAL | proptest::num::f64::ZERO | proptest::num::f64::SUBNORMAL, (-1000i32..1000).prop_map(f64::from)]
}

fn column(channel: i64) -> impl Strategy<Value = Column> {
    let offsets = proptest::collection::btree_set(-1_000_000..1_000_000i32, 1..20);
    (offsets, -1_000_000_000..1_000_000_000i64).prop_flat_map(move |(offsets, ahead_us)| {
        let offsets: Vec<i32> = offsets.into_iter().collect();
        proptest::collection::vec(value(), offsets.len()).prop_map(move |values| Column {
            channel,
            t0_us: NOW_US + ahead_us,
            offsets: offsets.clone(),
            values,
        })
    })
}

fn frame() -> impl Strategy<Value = (Vec<Column>, Vec<u8>)> {
    let columns = (0..6i64).prop_flat_map(|n| (1..=n).map(column).collect::<Vec<_>>());
    (columns, any::<bool>(), any::<bool>())
        .prop_map(|(columns, wide, numbers)| (columns.clone(), data_frame(7, &columns, Spelling { wide, numbers })))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_frame_is_read_as_it_was_written((columns, bytes) in frame()) {
        let Ok(Frame::Data(data)) = decode(&bytes) else { panic!("{:?}", decode(&bytes)) };
        let read: Vec<Column> = data.columns.map(|column| {
            let Times::Offsets(offsets) = column.times else { panic!("the times are a bin") };
            let mut values = Vec::new();
            column.values.for_each(|value| values.push(value));
            Column { channel: column.channel, t0_us: column.t0_us, offsets: offsets.chunks_exact(4).map(offset).collect(), values }
        }).collect();
        prop_assert_eq!(read, columns);
    }

    #[test]
    fn what_is_accepted_is_what_is_drained((columns, bytes) in frame()) {
        let mut core = intake(5);
        let n: usize = columns.iter().map(|column| column.values.len()).sum();
        prop_assert_eq!(core.accept(1, &bytes, NOW_US).unwrap().unwrap().0, n as u64);
        let segments = drain(&mut core, &Catalogue::default());
        let rows: Vec<_> = segments.iter().flat_map(rows).collect();
        let expected = columns.iter().flat_map(|column| {
            let readings = column.offsets.iter().zip(&column.values);
            readings.map(|(offset, value)| ((column.channel as i32, column.t0_us + i64::from(*offset)), value.to_bits()))
        });
        // an integer spelling has no negative zero
        let plus = |bits: u64| (f64::from_bits(bits) + 0.0).to_bits();
        prop_assert_eq!(
            stored(&rows).into_iter().map(|(key, bits)| (key, plus(bits))).collect::<std::collections::BTreeMap<_, _>>(),
            expected.map(|(key, bits)| (key, plus(bits))).collect()
        );
        prop_assert_eq!(core.buffered_bytes(), 0);
    }

    #[test]
    fn a_damaged_frame_is_taken_whole_or_not_at_all_and_always_the_same(
        (_, bytes) in frame(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6),
    ) {
        let mut bytes = bytes;
        for (place, byte, how) in damage {
            let at = place.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, byte),
            }
        }
        let verdicts = [(); 2].map(|()| {
            let mut core = intake(5);
            let verdict = core.accept(1, &bytes, NOW_US).unwrap();
            let segments = drain(&mut core, &Catalogue::default());
            let received: u64 = segments.iter().map(|segment| segment.records.readings).sum();
            let refusals: usize = segments.iter().map(|segment| segment.records.refusals.len()).sum();
            match &verdict {
                Ok((_, shown)) if !shown.is_empty() => assert_eq!((received, refusals), (0, 0)),
                Ok((readings, _)) => assert_eq!((received, refusals), (*readings, 0)),
                Err(refusal) => {
                    assert_eq!(received, 0);
                    assert!(!refusal.detail.contains("internal fault"), "{refusal:?}");
                }
            }
            verdict
        });
        prop_assert_eq!(&verdicts[0], &verdicts[1]);
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut core = intake(5);
        let verdict = core.accept(1, &bytes, NOW_US).unwrap();
        prop_assert_eq!(&verdict, &core.accept(1, &bytes, NOW_US).unwrap());
    }

    #[test]
    fn arbitrary_text_is_refused_or_read(text in "[\\[\\]{}\",:a-z0-9.eE+ -]{0,80}") {
        let read = ingest_core::text::decode::<Item>(text.as_bytes(), 100);
        prop_assert_eq!(&read, &ingest_core::text::decode::<Item>(text.as_bytes(), 100));
    }

    #[test]
    fn a_time_reads_back_as_it_was_written(t_us in -62_135_596_800_000_000..253_402_300_800_000_000i64) {
        let mut text = Vec::new();
        ingest_core::json::push_time(&mut text, t_us);
        let text = std::str::from_utf8(&text).unwrap().trim_matches('"');
        prop_assert_eq!(text.len(), 27);
        prop_assert_eq!(ingest_core::json::read_time(text), Some(t_us));
    }
}
