//! Packed payloads: what goes in comes out, bit for bit; what is damaged is said, whatever it claims.

use ingest_core::pack::{compress, pack, packed_bytes, unpack, ENCODING_DECIMALS, ENCODING_FLOATS};
use ingest_core::run::{Run, DAY_US, PACKED_READINGS, RUN_READINGS_MAX};
use proptest::prelude::*;

const NOW_US: i64 = 1_800_000_000_000_000;

fn packed(times: &[i64], values: &[f64]) -> (i16, Vec<u8>) {
    let mut payload = Vec::new();
    let encoding = compress(&Run { times, values, experiment: None }, &mut payload);
    (encoding, payload)
}

fn unpacked(created_us: i64, encoding: i16, payload: &[u8]) -> Result<(Vec<i64>, Vec<u64>), String> {
    let (mut times, mut values) = (Vec::new(), Vec::new());
    match unpack(created_us, encoding, payload, &mut times, &mut values) {
        Ok(()) => Ok((times, values.into_iter().map(f64::to_bits).collect())),
        Err(fault) => {
            assert!(times.is_empty() && values.is_empty());
            Err(fault.to_string())
        }
    }
}

fn bits(values: &[f64]) -> Vec<u64> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Bytes a reading of `n` readings 1 ms apart.
fn size(n: i64, value: impl Fn(i64) -> f64) -> (i16, f64) {
    let times: Vec<i64> = (0..n).map(|k| NOW_US + k * 1000).collect();
    let values: Vec<f64> = (0..n).map(value).collect();
    let (encoding, payload) = packed(&times, &values);
    assert_eq!(unpacked(NOW_US, encoding, &payload).unwrap(), (times, bits(&values)));
    (encoding, payload.len() as f64 / n as f64)
}

/// Steps of one kind, as clocks make them: fixed, jittered, in whole ms, anything.
fn steps(n: usize) -> impl Strategy<Value = Vec<i64>> {
    prop_oneof![
        (1..5_000_000i64).prop_map(move |step| vec![step; n]),
        proptest::collection::vec(980..1020i64, n),
        proptest::collection::vec((1..50i64).prop_map(|ms| ms * 1000), n),
        proptest::collection::vec(1..DAY_US / 1000, n),
    ]
}

/// Values of one kind, as devices give them; the last are the strangest that a frame may hold.
fn values(n: usize) -> impl Strategy<Value = Vec<f64>> {
    let strange = prop_oneof![
        Just(-0.0),
        Just(0.0),
        Just(f64::MIN_POSITIVE / 8.0),
        Just(-5e-324),
        Just(f64::MAX),
        Just(f64::MIN),
        Just(0.1 + 0.2),
        Just((1u64 << 53) as f64),
        Just(1e22),
        Just(1e-12),
    ];
    let finite = any::<u64>().prop_map(f64::from_bits).prop_filter("finite", |value| value.is_finite());
    prop_oneof![
        (any::<i32>(), 0..13i32).prop_map(move |(k, decimals)| vec![f64::from(k) / 10f64.powi(decimals); n]),
        (proptest::collection::vec(-100_000..100_000i32, n), 0..13i32)
            .prop_map(|(ks, decimals)| ks.into_iter().map(|k| f64::from(k) / 10f64.powi(decimals)).collect()),
        proptest::collection::vec(any::<f32>().prop_filter("finite", |value| value.is_finite()).prop_map(f64::from), n),
        proptest::collection::vec(-1e3..1e3f64, n),
        proptest::collection::vec((-(1i64 << 53)..1i64 << 53).prop_map(|k| k as f64), n),
        proptest::collection::vec(finite, n),
        proptest::collection::vec(strange.clone(), n),
        proptest::collection::vec(prop_oneof![9 => (-999..999i32).prop_map(|k| f64::from(k) / 100.0), 1 => strange], n),
    ]
}

fn readings() -> impl Strategy<Value = (Vec<i64>, Vec<f64>)> {
    prop_oneof![8 => 1..40usize, 1 => 200..700usize].prop_flat_map(|n| (steps(n), values(n))).prop_map(|(steps, values)| {
        let ahead = steps.iter().scan(0, |ahead, step| Some(std::mem::replace(ahead, *ahead + step)));
        (ahead.map(|ahead| NOW_US + ahead).collect(), values)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_goes_in_comes_out_bit_for_bit((times, values) in readings()) {
        let (encoding, payload) = packed(&times, &values);
        prop_assert_eq!(unpacked(NOW_US, encoding, &payload).unwrap(), (times, bits(&values)));
    }

    #[test]
    fn a_damaged_payload_is_refused_or_gives_whole_readings(
        (times, values) in readings(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
        encoding in 0..4i16,
    ) {
        let (_, mut payload) = packed(&times, &values);
        for (at, byte) in damage {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        if let Ok((times, values)) = unpacked(NOW_US, encoding, &payload) {
            prop_assert_eq!(times.len(), values.len());
            prop_assert_eq!(times[0], NOW_US);
            prop_assert!(times.windows(2).all(|pair| pair[0] < pair[1]) && times.len() <= RUN_READINGS_MAX);
        }
    }
}

#[test]
fn a_fixed_step_costs_nothing_and_decimals_cost_what_they_say() {
    let n = PACKED_READINGS as i64;
    let (_, constant) = size(n, |_| 21.5);
    assert!(constant * (n as f64) < 20.0, "{constant}");
    let (encoding, ramp) = size(n, |k| k as f64 / 100.0);
    assert!(encoding == ENCODING_DECIMALS && ramp * (n as f64) < 20.0, "{ramp}");
    // one of 16 values, 4 bits: the rest is the table of how often each comes
    let (encoding, sixteen) = size(n, |k| (k * k * 7919 % 4093 % 16) as f64 * 0.25);
    assert!(encoding == ENCODING_DECIMALS && sixteen < 0.52, "{sixteen}");
    let (encoding, _) = size(n, |k| (k as f64).sin());
    assert_eq!(encoding, ENCODING_FLOATS);
    let (_, single) = size(n, |k| f64::from((k as f32).sin()));
    let (_, double) = size(n, |k| (k as f64).sin());
    assert!(single < 0.6 * double, "{single} {double}");
}

#[test]
fn one_value_that_is_not_decimal_makes_floats_of_all() {
    for odd in [-0.0, f64::MIN_POSITIVE / 2.0, 0.1 + 0.2, 1e300, 9_007_199_254_740_993.0] {
        let (encoding, _) = size(100, |k| if k == 70 { odd } else { k as f64 / 10.0 });
        assert_eq!(encoding, ENCODING_FLOATS, "{odd}");
    }
}

#[test]
fn what_a_payload_claims_is_bounded_before_it_is_believed() {
    let claim = |n: &[u8], rest: &[u8]| unpacked(NOW_US, ENCODING_DECIMALS, &[&[1], n, rest].concat());
    let line = [0, 0, 2, 0, 0, 0, 0]; // times 0, 1, 2 ..., no decimals, values 0
    assert_eq!(claim(&[3], &line).unwrap().0, [NOW_US, NOW_US + 1, NOW_US + 2]);
    assert_eq!(claim(&[0x80, 0x80, 4], &line).unwrap().0.len(), RUN_READINGS_MAX);
    for too_many in [&[0x81, 0x80, 4][..], &[0], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], &[0x80; 12]] {
        assert!(claim(too_many, &line).is_err());
    }
    // modes and delta encodings of the codec that allocate what they are told: dictionaries, look-back windows
    for kind in (0..=255u8).filter(|kind| *kind != 0x00 && *kind != 0x10) {
        let chunk = [&[0, 0, 2, 0, 1, 0, 2, kind][..], &[0xff; 40]].concat();
        assert!(claim(&[3], &chunk).unwrap_err().contains("of a kind that is not known"));
    }
}

#[test]
fn raw_payloads_stay_what_they_were() {
    let (times, values) = ([NOW_US, NOW_US + 7], [1.5, -0.0]);
    let mut payload = Vec::new();
    pack(&Run { times: &times, values: &values, experiment: None }, &mut payload);
    assert_eq!(payload.len(), packed_bytes(2));
    assert_eq!(unpacked(NOW_US, 0, &payload).unwrap(), (times.to_vec(), bits(&values)));
    assert!(unpacked(NOW_US, 3, &payload).unwrap_err().contains("encoding 3"));
    payload[0] = 2;
    for encoding in [0, ENCODING_FLOATS, ENCODING_DECIMALS] {
        assert!(unpacked(NOW_US, encoding, &payload).unwrap_err().contains("format 2"));
    }
}

#[test]
fn the_codec_writes_the_format_that_is_read_back() {
    let header = pco::wrapped::FileCompressor::default().write_header(Vec::new()).unwrap();
    assert_eq!(header, [4, 1]);
}
