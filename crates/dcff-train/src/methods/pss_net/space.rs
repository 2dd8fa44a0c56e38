//! The subnets of a network: a width for every channel space and a size of the images.

use dcff_flops::{Convention, Form, cost};
use dcff_models::{Architecture, Groups, LayerKind};

use crate::error::{Error, Result};
use crate::random::Random;

/// `value` as a multiple of `divisor`, at least `least` and not a tenth smaller than `value` (Howard et al., 2017, as their program and
/// those after it round widths).
pub fn divisible(value: f64, divisor: usize, least: usize) -> usize {
    let step = divisor as f64;
    let rounded = (((value + step / 2.0) / step).floor() * step).max(least as f64);
    let up = if rounded < 0.9 * value { step } else { 0.0 };
    (rounded + up) as usize
}

/// `value` rounded to the nearest multiple of `step`, a tie to the even one: the target that a cost counts to.
pub fn target_of(value: u64, step: u64) -> u64 {
    (value as f64 / step as f64).round_ties_even() as u64 * step
}

/// A share to three decimals, exact ties to the even one, as the authors' program stores it.
pub fn thousandths(share: f64) -> u16 {
    let decimals = format!("{:.3}", share.clamp(0.0, 1.0));
    let digits: String = decimals.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(1000)
}

/// One subnet as it is drawn.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Draw {
    /// Height and width of the images.
    pub side: usize,
    /// The width of each free space, in thousandths of its own.
    pub thousandths: Vec<u16>,
}

/// One subnet as it is computed: draws that round to the same widths are one.
#[derive(
    Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct Subnet {
    /// Height and width of the images.
    pub side: usize,
    /// The width of every channel space.
    pub widths: Vec<usize>,
}

/// How a channel space gets its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    /// From the multiplier of that number.
    Free(usize),
    /// So many times the width of that space: the inside of an inverted residual.
    Times(usize, usize),
    /// Always its own.
    Fixed,
}

/// The subnets that widths and image sizes span.
#[derive(Clone, Debug)]
pub struct Space {
    full: Architecture,
    widths: Vec<Width>,
    free: usize,
    divisor: usize,
    /// Thousandths.
    narrowest: u16,
    sides: [usize; 2],
    side_step: usize,
}

impl Space {
    /// The subnets of `full` with widths of `narrowest` (a share) to all of each free space, in multiples of `divisor`, and images of
    /// `smallest` pixels on a side to the network's own, in steps of `side_step`.
    ///
    /// Spaces that parameter-free shortcuts join keep their widths. The inside of an inverted residual is as many times as wide as what it reads, and the last convolution of such a network keeps its
    /// width (Sandler et al., <https://arxiv.org/abs/1801.04381>, section 6.1.1).
    ///
    /// # Errors
    /// When the network cannot be sliced: its maps lie side by side, or the image is not square.
    pub fn new(
        full: &Architecture,
        narrowest: f64,
        divisor: usize,
        smallest: usize,
        side_step: usize,
    ) -> Result<Self> {
        let fail = |message: String| Err(Error::setting("method.name", message));
        let joins = |kind: &LayerKind| matches!(kind, LayerKind::Concat | LayerKind::Scatter(_));
        if let Some(layer) = full.layers.iter().find(|layer| joins(&layer.kind)) {
            return fail(format!(
                "{} cannot be sliced: the channels of {} lie side by side, and the first ones of a wide layer are not those of a narrow one",
                full.name, layer.name
            ));
        }
        let [_, height, width] = full.input;
        if height != width {
            return fail(format!("expected square images, got {height} x {width}"));
        }
        let position = |name: &str| full.spaces.iter().position(|space| space.name == name);
        let wiring = full.wiring()?;
        // For each convolution that is not depthwise: the spaces that it reads and writes.
        let (mut of_layer, mut convs): (Vec<Option<usize>>, Vec<_>) = (Vec::new(), Vec::new());
        for (layer, inputs) in full.layers.iter().zip(&wiring) {
            let read = inputs.first().copied().flatten().and_then(|i| of_layer[i]);
            of_layer.push(match &layer.kind {
                LayerKind::Conv(conv) => {
                    let to = position(&conv.space);
                    if let (Groups::Fixed(_), Some(to)) = (conv.groups, to) {
                        convs.push((conv, read, to));
                    }
                    to
                }
                LayerKind::Linear(_) => None,
                LayerKind::Shortcut(shortcut) => position(&shortcut.space),
                _ => read,
            });
        }
        let width = |space: usize| full.spaces[space].width;
        // Every channel apart, then fewer channels: the inside of an inverted residual.
        let inside = |space: usize| {
            let apart = full.convs().any(|(_, conv)| {
                conv.groups == Groups::Depthwise && position(&conv.space) == Some(space)
            });
            apart
                && convs
                    .iter()
                    .any(|&(_, read, to)| read == Some(space) && width(to) < width(space))
        };
        let mut widths: Vec<Option<Width>> = vec![None; full.spaces.len()];
        for &(conv, read, to) in &convs {
            let times = read.filter(|&from| {
                conv.kernel == 1 && width(to) > width(from) && width(to).is_multiple_of(width(from))
            });
            widths[to] = widths[to].or(Some(match times {
                Some(from) if inside(to) => Width::Times(from, width(to) / width(from)),
                _ => Width::Free(0),
            }));
        }
        let mut widths: Vec<Width> = widths
            .into_iter()
            .map(|width| width.unwrap_or(Width::Fixed))
            .collect();
        // A shortcut without parameters puts channels in the middle of a wider space, at a place that follows from both widths: the first
        // channels of a narrow network would be others than those of the wide one.
        for (layer, inputs) in full.layers.iter().zip(&wiring) {
            if let LayerKind::Shortcut(shortcut) = &layer.kind {
                let read = inputs.first().copied().flatten().and_then(|i| of_layer[i]);
                let to = position(&shortcut.space);
                if let (Some(from), Some(to), true) = (read, to, read != to) {
                    widths[from] = Width::Fixed;
                    widths[to] = Width::Fixed;
                }
            }
        }
        let last = convs.last().map(|&(_, _, to)| to);
        if let (Some(last), true) = (
            last,
            widths.iter().any(|width| matches!(width, Width::Times(..))),
        ) {
            widths[last] = Width::Fixed;
        }
        let mut free = 0;
        for width in &mut widths {
            if let Width::Free(number) = width {
                *number = free;
                free += 1;
            }
        }
        Ok(Self {
            full: full.clone(),
            widths,
            free,
            divisor,
            narrowest: (narrowest * 1000.0).round() as u16,
            sides: [smallest, height],
            side_step,
        })
    }

    /// The number of widths that are drawn.
    pub fn free(&self) -> usize {
        self.free
    }

    /// The widths of `subnet` that were drawn, in the order of the draws.
    pub fn free_widths(&self, subnet: &Subnet) -> Vec<usize> {
        let free = self.widths.iter().zip(&subnet.widths);
        free.filter(|(width, _)| matches!(width, Width::Free(_)))
            .map(|(_, &width)| width)
            .collect()
    }

    /// The subnet of a draw.
    pub fn subnet(&self, draw: &Draw) -> Subnet {
        let mut widths: Vec<usize> = self.full.widths();
        for (space, width) in self.widths.iter().enumerate() {
            if let Width::Free(number) = *width {
                widths[space] = self.width(widths[space], draw.thousandths[number]);
            }
        }
        // What is expanded is read from a space that has its width by now, or is an expansion itself.
        for _ in 0..widths.len() {
            let before = widths.clone();
            for (space, width) in self.widths.iter().enumerate() {
                if let Width::Times(from, times) = *width {
                    widths[space] = widths[from] * times;
                }
            }
            if widths == before {
                break;
            }
        }
        Subnet {
            side: draw.side,
            widths,
        }
    }

    /// How `subnet` is asked for: the side of its images and its drawn widths in the order of the spaces, `160:24,48,96`.
    pub fn config(&self, subnet: &Subnet) -> String {
        let widths = self.free_widths(subnet);
        let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
        format!("{}:{}", subnet.side, widths.join(","))
    }

    /// The subnet that `config` asks for, written as [`Space::config`] does.
    ///
    /// # Errors
    /// What is expected, where it is none of these subnets.
    pub fn read(&self, config: &str) -> Result<Subnet> {
        let fail = |message: String| {
            let message = format!("expected {message}, got {config}");
            Err(Error::setting("slice", message))
        };
        let form = || {
            format!(
                "a side and {} widths, as in {}",
                self.free,
                self.config(&self.subnet(&self.smallest()))
            )
        };
        let Some((side, widths)) = config.split_once(':') else {
            return fail(form());
        };
        let numbers = |text: &str| -> Option<Vec<usize>> {
            text.split(',').map(|n| n.trim().parse().ok()).collect()
        };
        let (side, widths) = match (numbers(side).as_deref(), numbers(widths)) {
            (Some(&[side]), Some(widths)) if widths.len() == self.free => (side, widths),
            _ => return fail(form()),
        };
        let [least, most] = self.sides;
        let met = side == least || side == most || side.is_multiple_of(self.side_step);
        if !(least..=most).contains(&side) || !met {
            return fail(format!(
                "images of {least} to {most} pixels in steps of {}",
                self.side_step
            ));
        }
        let mut draw = self.even(1000, side);
        let spaces = self.full.spaces.iter().zip(&self.widths);
        let free = spaces.filter(|(_, width)| matches!(width, Width::Free(_)));
        for (((space, _), &wanted), share) in free.zip(&widths).zip(&mut draw.thousandths) {
            let of = |share: u16| self.width(space.width, share);
            let Some(found) = (self.narrowest..=1000).find(|&share| of(share) == wanted) else {
                let mut known: Vec<usize> = (self.narrowest..=1000).map(of).collect();
                known.dedup();
                let known: Vec<String> = known.iter().map(usize::to_string).collect();
                return fail(format!(
                    "{} channels of {}, not {wanted}",
                    known.join(" or "),
                    space.name
                ));
            };
            *share = found;
        }
        Ok(self.subnet(&draw))
    }

    /// The width of a space of `own` channels that is drawn as `thousandths` of them.
    fn width(&self, own: usize, thousandths: u16) -> usize {
        match thousandths {
            1000.. => own,
            _ => {
                let share = f64::from(thousandths) / 1000.0;
                divisible(own as f64 * share, self.divisor, self.divisor).min(own)
            }
        }
    }

    /// The whole network.
    pub fn largest(&self) -> Draw {
        self.even(1000, self.sides[1])
    }

    /// The narrowest network with the smallest images.
    pub fn smallest(&self) -> Draw {
        self.even(self.narrowest, self.sides[0])
    }

    /// The same share of every free space.
    fn even(&self, thousandths: u16, side: usize) -> Draw {
        Draw {
            side,
            thousandths: vec![thousandths; self.free],
        }
    }

    /// The network that computes `subnet`.
    ///
    /// # Errors
    /// When it is none of this network's.
    pub fn architecture(&self, subnet: &Subnet) -> Result<Architecture> {
        let narrow = self.full.narrowed(&subnet.widths)?;
        Ok(narrow.with_input([self.full.input[0], subnet.side, subnet.side]))
    }

    /// Multiply-accumulates of one image.
    ///
    /// # Errors
    /// When the network does not fit images of that size.
    pub fn macs(&self, subnet: &Subnet) -> Result<u64> {
        let architecture = self.architecture(subnet)?;
        Ok(cost(&architecture, Convention::Macs, Form::Compact)?.ops())
    }

    /// Multiply-accumulates of the smallest and of the largest subnet.
    ///
    /// # Errors
    /// As [`Space::macs`].
    pub fn ends(&self) -> Result<[u64; 2]> {
        let of = |draw: Draw| self.macs(&self.subnet(&draw));
        Ok([of(self.smallest())?, of(self.largest())?])
    }

    fn side(&self, random: &mut Random) -> usize {
        let [least, most] = self.sides;
        if least == most {
            return most;
        }
        let drawn = random.between(least as f64, most as f64);
        divisible(drawn, self.side_step, least).min(most)
    }

    /// Every width and the size drawn evenly and apart, as in the authors' program.
    pub fn uniform(&self, random: &mut Random) -> Draw {
        let low = f64::from(self.narrowest) / 1000.0;
        let side = self.side(random);
        let share = |random: &mut Random| thousandths(random.between(low, 1.0));
        Draw {
            side,
            thousandths: (0..self.free).map(|_| share(random)).collect(),
        }
    }

    /// A subnet near `macs`: an image size that allows it, one width for all that meets it, then each moved by up to `spread`.
    ///
    /// # Errors
    /// As [`Space::macs`].
    pub fn near(&self, macs: u64, spread: f64, random: &mut Random) -> Result<Draw> {
        let side = self.side(random);
        let at = |thousandths: u16| self.macs(&self.subnet(&self.even(thousandths, side)));
        let (mut low, mut high) = (self.narrowest, 1000);
        while high - low > 4 {
            let middle = low + (high - low) / 2;
            match at(middle)? < macs {
                true => low = middle,
                false => high = middle,
            }
        }
        let (least, most) = (f64::from(self.narrowest), 1000.0);
        let moved = |random: &mut Random| {
            let by = 1000.0 * random.between(-spread, spread);
            (f64::from(high) + by).clamp(least, most).round() as u16
        };
        Ok(Draw {
            side,
            thousandths: (0..self.free).map(|_| moved(random)).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_and_targets_round_as_in_the_authors_program() {
        // 12 is halfway to 16; 18 would lose more than a tenth as 16; 8 is the least.
        let widths = [
            (12.0, 16),
            (17.0, 16),
            (18.0, 24),
            (8.0, 8),
            (1.0, 8),
            (124.0, 128),
        ];
        for (value, expected) in widths {
            assert_eq!(divisible(value, 8, 8), expected, "{value}");
        }
        for (value, expected) in [(105, 100), (115, 120), (125, 120), (126, 130)] {
            assert_eq!(target_of(value, 10), expected, "{value}");
        }
    }

    #[test]
    fn mobilenets_have_the_published_spaces() {
        let v1 = dcff_models::by_name("mobilenet-v1").unwrap();
        let v1 = Space::new(&v1, 0.75, 8, 128, 8).unwrap();
        assert_eq!(v1.free(), 14);
        let subnet = v1.subnet(&v1.smallest());
        let expected = [
            24, 48, 96, 96, 192, 192, 384, 384, 384, 384, 384, 384, 768, 768,
        ];
        assert_eq!(subnet.widths, expected);
        // 106,782,720 with 16 additions for each of 768 channels in the average pool.
        assert_eq!(v1.macs(&subnet).unwrap() + 16 * 768, 106_782_720);

        let v2 = dcff_models::by_name("mobilenet-v2").unwrap();
        let v2 = Space::new(&v2, 0.75, 8, 128, 8).unwrap();
        // Stem and seven stages; the last convolution keeps its width.
        assert_eq!(v2.free(), 8);
        let subnet = v2.subnet(&v2.smallest());
        assert_eq!(v2.macs(&subnet).unwrap() + 16 * 1280, 69_150_208);
        assert_eq!(
            v2.macs(&v2.subnet(&v2.largest())).unwrap() + 49 * 1280,
            300_836_992
        );
    }

    #[test]
    fn a_subnet_is_asked_for_as_it_is_written() {
        let v2 = dcff_models::by_name("mobilenet-v2").unwrap();
        let space = Space::new(&v2, 0.75, 8, 128, 8).unwrap();
        let smallest = space.subnet(&space.smallest());
        assert_eq!(space.config(&smallest), "128:24,16,24,24,48,72,120,240");
        let mut random = Random::new(1);
        for _ in 0..20 {
            let subnet = space.subnet(&space.uniform(&mut random));
            assert_eq!(space.read(&space.config(&subnet)).unwrap(), subnet);
        }
        for (config, expected) in [
            (
                "128",
                "a side and 8 widths, as in 128:24,16,24,24,48,72,120,240",
            ),
            ("128:24,16,24", "a side and 8 widths"),
            (
                "120:24,16,24,24,48,72,120,240",
                "128 to 224 pixels in steps of 8",
            ),
            (
                "130:24,16,24,24,48,72,120,240",
                "128 to 224 pixels in steps of 8",
            ),
            (
                "128:24,16,24,24,50,72,120,240",
                "48 or 56 or 64 channels of stage4, not 50",
            ),
        ] {
            let error = space.read(config).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn maps_side_by_side_are_refused_by_name() {
        let googlenet = dcff_models::by_name("googlenet").unwrap();
        let error = Space::new(&googlenet, 0.75, 8, 32, 4)
            .unwrap_err()
            .to_string();
        assert!(error.contains("googlenet cannot be sliced"), "{error}");
    }
}
