//! The core without Python: one frame of 500 x 200 taken into warm buffers, with and without rules, and its drain.

#[path = "../tests/parts/mod.rs"]
mod parts;

use criterion::{criterion_group, criterion_main, BatchSize, Criterion, Throughput};
use ingest_core::catalogue::Catalogue;
use ingest_core::intake::Intake;
use ingest_core::rule::Test;
use parts::{data_frame, drain, intake, Column, Spelling, NOW_US};

const CHANNELS: i32 = 500;
const READINGS: i32 = 200;

fn frame() -> Vec<u8> {
    let column = |channel: i32| Column {
        channel: channel.into(),
        t0_us: NOW_US,
        offsets: (0..READINGS).map(|k| k * 1000 + k % 7).collect(),
        values: (0..READINGS).map(|k| f64::from(k * channel) * 0.01).collect(),
    };
    data_frame(1, &(1..=CHANNELS).map(column).collect::<Vec<_>>(), Spelling { wide: false, numbers: false })
}

fn with_rules(threshold: f64) -> Intake {
    let mut core = intake(CHANNELS);
    core.set_rules(&(0..1000).map(|id| (id, id % CHANNELS + 1, Test::Gt(threshold))).collect::<Vec<_>>());
    core
}

fn take(c: &mut Criterion) {
    let frame = frame();
    let catalogue = Catalogue::default();
    let mut group = c.benchmark_group("500x200");
    group.throughput(Throughput::Elements((CHANNELS * READINGS) as u64));
    let events: Vec<_> = (1..=CHANNELS).map(|event| (event, None)).collect();
    let mut generation = 1;
    for (name, mut core) in [("accept", intake(CHANNELS)), ("accept, 1000 rules", with_rules(1e9))] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    drain(&mut core, &catalogue);
                    generation += 1; // in the same tenure the frame would be late, and no rule would look at it
                    core.own((1, generation), &events, &[]);
                    let begun = std::time::Instant::now();
                    core.accept(1, &frame, NOW_US).unwrap().unwrap();
                    spent += begun.elapsed();
                }
                spent
            });
        });
    }
    let mut core = intake(CHANNELS);
    group.bench_function("drain", |bencher| {
        let core = std::cell::RefCell::new(&mut core);
        let fill = || core.borrow_mut().accept(1, &frame, NOW_US).unwrap().unwrap();
        bencher.iter_batched(fill, |_| drain(&mut core.borrow_mut(), &catalogue), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, take);
criterion_main!(benches);
