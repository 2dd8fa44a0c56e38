//! Sizes that no memory holds are errors of the safe functions that take them, not memory that is not there.

use candle_core::{DType, Device, Result, Tensor};
use dcff_nn::inference::{self, Channels, Conv, Load, Maps};
use dcff_nn::{
    Activation, ConvConfig, Features, InputGradient, PoolConfig, Precision, avg_pool2d,
    avg_pool2d_backward, conv2d, conv2d_backward, filter_distances, global_avg_pool_backward,
    linear, max_pool2d, mix, mix_backward, shortcut, shortcut_backward, split_channels, unflatten,
};

const HUGE: [usize; 4] = [1 << 45, 1 << 60, 1 << 61, usize::MAX];

fn maps() -> Features {
    Features::zeros((1, 2, 1, 1), &Device::Cpu).unwrap()
}

/// A tensor of any dimensions that takes no memory: one number over and over.
fn wide(dims: &[usize]) -> Option<Tensor> {
    let one = Tensor::zeros(vec![1; dims.len()], DType::F32, &Device::Cpu).ok()?;
    one.broadcast_as(dims).ok()
}

/// An empty tensor, which takes no memory either.
fn empty(dims: (usize, usize)) -> Tensor {
    Tensor::from_vec(Vec::<f32>::new(), dims, &Device::Cpu).unwrap()
}

#[track_caller]
fn refused<T>(result: Result<T>) {
    let error = result.err().expect("expected an error, got memory");
    let text = error.to_string();
    assert!(
        text.contains("expected") || text.contains("no memory"),
        "{text}"
    );
}

#[test]
fn maps_that_do_not_fit() {
    for huge in HUGE {
        for dims in [
            (1, 1, 1, huge),
            (1, 1, huge, huge),
            (1, huge, 1, 1),
            (huge, 1, 1, 1),
            (huge, huge, huge, huge),
        ] {
            refused(Features::zeros(dims, &Device::Cpu));
            refused(unflatten(&empty((1, 0)), dims));
            let (n, c, h, w) = dims;
            if let Some(t) = wide(&[n, c, h, w])
                && huge > 1 << 50
            {
                refused(Features::from_nchw(&t));
                for load in [Load::Few, Load::Sixteens] {
                    refused(Maps::from_nchw(&t, load));
                }
            }
        }
    }
    refused(Features::zeros((1, 1 << 31, 1 << 29, 1), &Device::Cpu));
    // Whose products are 0 where they wrap around.
    refused(Features::zeros((16, 1 << 32, 1 << 32, 1), &Device::Cpu));
}

#[test]
fn shortcuts_and_channels_that_do_not_fit() {
    for precision in [Precision::F32, Precision::Bf16] {
        let x = maps().to_precision(precision).unwrap();
        for huge in HUGE {
            refused(shortcut(&x, 1, huge));
            refused(shortcut(&x, huge, huge));
            refused(shortcut_backward((1, huge, 1, 1), 1, &x));
            refused(shortcut_backward((1, 2, huge, 1), huge, &x));
            refused(shortcut_backward((1, 2, huge, huge), huge, &x));
            refused(split_channels(&x, &[huge]));
            // These add up to 2 where they wrap around.
            refused(split_channels(&x, &[huge, usize::MAX - huge + 1, 2]));
            assert!(shortcut(&x, huge, 2).is_ok(), "one pixel is the first");
        }
    }
    let t = Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu).unwrap();
    for load in [Load::Few, Load::Sixteens] {
        let x = Maps::from_nchw(&t, load).unwrap();
        for huge in HUGE {
            refused(inference::shortcut(&x, 1, huge));
        }
    }
}

#[test]
fn windows_that_do_not_fit() {
    let x = maps();
    let w = Tensor::zeros((2, 2, 1, 1), DType::F32, &Device::Cpu).unwrap();
    for huge in HUGE.into_iter().chain([1 << 63, (1 << 63) + 1]) {
        for (stride, padding) in [(1, huge), (huge, huge), (huge, 0), (huge, 1)] {
            let cfg = ConvConfig {
                stride,
                padding,
                ..ConvConfig::default()
            };
            refused(conv2d(&x, &w, None, cfg));
            let gradient = InputGradient::Compute;
            refused(conv2d_backward(&x, &w, true, cfg, &x, gradient));
            let (channels, act) = (Channels::new(2), Activation::Identity);
            refused(Conv::new(&w, None, cfg, &channels, (1, 1), act));
            let cfg = PoolConfig {
                kernel: 1,
                stride,
                padding,
            };
            refused(max_pool2d(&x, cfg));
            refused(avg_pool2d(&x, cfg));
            refused(avg_pool2d_backward((1, 1), cfg, &x));
        }
        let cfg = ConvConfig {
            groups: huge,
            ..ConvConfig::default()
        };
        refused(conv2d(&x, &w, None, cfg));
        let (channels, act) = (Channels::new(2), Activation::Identity);
        let one = ConvConfig::default();
        refused(Conv::new(&w, None, one, &channels, (huge, huge), act));
        for input in [(huge, 1), (1, huge), (huge, huge)] {
            refused(global_avg_pool_backward(input, &x));
            let cfg = PoolConfig {
                kernel: 1,
                stride: 1 << 61,
                padding: 0,
            };
            refused(avg_pool2d_backward(input, cfg, &x));
        }
    }
    // A stride beyond the map and padding beyond the kernel are slow nowhere and wrong nowhere.
    let cfg = ConvConfig {
        stride: 1 << 16,
        padding: 3,
        ..ConvConfig::default()
    };
    let y = conv2d(&x, &w, None, cfg).unwrap();
    assert_eq!(y.dims(), (1, 2, 1, 1));
    let grads = conv2d_backward(&x, &w, true, cfg, &y, true).unwrap();
    assert_eq!(grads.input.unwrap().dims(), x.dims());
}

#[test]
fn products_that_do_not_fit() {
    for huge in HUGE {
        let (tall, flat) = (empty((huge, 0)), empty((0, huge)));
        refused(linear(&tall, &tall, None));
        refused(mix(&tall, &flat));
        refused(mix_backward(&flat, &flat));
        if let Some(t) = wide(&[huge, huge]) {
            refused(linear(&t, &t, None));
            refused(filter_distances(&t));
        }
    }
    // Four million filters take 16 MB, their distances 70 TB.
    let filters = Tensor::zeros((1 << 22, 1), DType::F32, &Device::Cpu).unwrap();
    refused(filter_distances(&filters));
}
