//! Results do not depend on the number of threads, to the bit.

mod common;

use candle_core::{Device, Tensor};
use common::*;
use dcff_nn::{
    Activation, Isa, PoolConfig, accumulate, add, avg_pool2d, avg_pool2d_backward, concat,
    cross_entropy, flatten, global_avg_pool, linear, linear_backward, max_pool2d,
    max_pool2d_backward, mix, mix_backward, shortcut, shortcut_backward, split_channels,
};

#[test]
fn same_bits_for_any_number_of_threads() {
    Isa::each(|_| {
        let mut random = Random(61);
        let dims = [37, 9, 6, 6];
        let x = features(&random.numbers(product(&dims)), dims);
        let other = features(&random.numbers(product(&dims)), dims);
        let rows = tensor(&random.numbers(37 * 50), &[37, 50]);
        let w = tensor(&random.numbers(11 * 50), &[11, 50]);
        let p = tensor(&random.numbers(7 * 11), &[7, 11]);
        let labels =
            Tensor::new((0..37).map(|i| i % 11).collect::<Vec<u32>>(), &Device::Cpu).unwrap();
        let run = || {
            let cfg = PoolConfig {
                kernel: 3,
                stride: 2,
                padding: 1,
            };
            let (max, indices) = max_pool2d(&x, cfg).unwrap();
            let average = avg_pool2d(&x, cfg).unwrap();
            let short = shortcut(&x, 2, 12).unwrap();
            let parts = split_channels(&x, &[4, 5]).unwrap();
            let logits = linear(&rows, &w, None).unwrap();
            let loss = cross_entropy(&logits, &labels, 0.1).unwrap();
            let grads = linear_backward(&rows, &w, &loss.grad, true).unwrap();
            let mixed = mix(&p, &w).unwrap();
            let mut all = vec![
                loss.value.read().unwrap().mean.to_bits().to_string(),
                format!("{:?}", bits(&numbers(&grads.input.unwrap()))),
            ];
            for t in [&logits, &loss.grad, &grads.weight, &grads.bias, &mixed] {
                all.push(format!("{:?}", bits(&numbers(t))));
            }
            all.push(format!(
                "{:?}",
                bits(&numbers(&mix_backward(&p, &mixed).unwrap()))
            ));
            all.push(format!("{:?}", bits(&numbers(&flatten(&x).unwrap()))));
            for map in [
                max_pool2d_backward(&indices, &max).unwrap(),
                avg_pool2d_backward((6, 6), cfg, &average).unwrap(),
                shortcut_backward(x.dims(), 2, &short).unwrap(),
                concat(&[&parts[1], &parts[0]]).unwrap(),
                add(&x, &other, Activation::Relu).unwrap(),
                accumulate(x.clone(), &other).unwrap(),
                global_avg_pool(&x).unwrap(),
                max,
                average,
                short,
            ] {
                all.push(format!("{:?}", bits(&maps(&map))));
            }
            all
        };
        let one = in_pool(1, run);
        assert!(one == in_pool(2, run), "1 and 2 threads differ");
        assert!(one == in_pool(5, run), "1 and 5 threads differ");
    });
}
