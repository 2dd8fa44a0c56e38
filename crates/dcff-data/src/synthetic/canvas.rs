//! One image: a lit background, clutter behind, the form, clutter in front, noise.

use super::forms::{Form, Traits};
use crate::random::Stream;

/// Rows and columns.
pub(super) const SIDE: usize = 32;
/// Red, green, blue.
pub(super) const CHANNELS: usize = 3;

const PLANE: usize = SIDE * SIDE;

/// Sample points per pixel and direction: enough to soften edges.
const SAMPLES: usize = 2;

type Colour = [f32; CHANNELS];

/// Intensities in `[0, 1]`, `[3, 32, 32]`.
struct Canvas([f32; CHANNELS * PLANE]);

/// Draws one image of `form` as bytes `[3, 32, 32]`. The draws from `stream` are the same for every form.
pub(super) fn draw(form: Form, stream: &mut Stream, out: &mut [u8]) {
    let (background, foreground) = contrasting_colours(stream);
    let mut canvas = Canvas::lit(background, stream);
    for _ in 0..stream.below(3) {
        Segment::clutter(stream).paint(&mut canvas, stream);
    }

    let traits = Traits::draw(stream);
    let pose = Pose::draw(stream);
    let fill = Gradient::draw(foreground, 0.12, stream);
    canvas.paint(
        |x, y| {
            let (u, v) = pose.to_form(x, y);
            form(u, v, &traits)
        },
        |x, y| fill.at(x, y),
    );

    for _ in 0..stream.below(2) {
        Segment::occluder(&pose, stream).paint(&mut canvas, stream);
    }
    let noise = stream.between(0.01, 0.06);
    for (byte, value) in out.iter_mut().zip(canvas.0) {
        let noisy = value + noise * stream.bell();
        *byte = (noisy.clamp(0.0, 1.0) * 255.0 + 0.5) as u8;
    }
}

/// Share of images whose foreground is the brighter colour. At one half the average image of every class is flat, and a linear
/// model would see nothing at all.
const BRIGHT_FOREGROUND: f32 = 0.9;

/// Background and foreground that differ clearly.
fn contrasting_colours(stream: &mut Stream) -> (Colour, Colour) {
    loop {
        let (a, b) = (colour(stream), colour(stream));
        let difference: f32 = a.iter().zip(b).map(|(x, y)| (x - y).abs()).sum();
        if difference > 1.0 {
            let ascending = a.iter().sum::<f32>() < b.iter().sum();
            let bright = stream.chance(BRIGHT_FOREGROUND);
            return if ascending == bright { (a, b) } else { (b, a) };
        }
    }
}

fn colour(stream: &mut Stream) -> Colour {
    std::array::from_fn(|_| stream.between(0.05, 0.95))
}

/// A direction, uniform on the circle, without sines: a point of the unit disc, scaled to length 1.
fn direction(stream: &mut Stream) -> (f32, f32) {
    loop {
        let (x, y) = (stream.between(-1.0, 1.0), stream.between(-1.0, 1.0));
        let squared = x * x + y * y;
        if (0.01..1.0).contains(&squared) {
            let length = squared.sqrt();
            return (x / length, y / length);
        }
    }
}

/// A colour that changes slowly across the image.
struct Gradient {
    middle: Colour,
    slope: Colour,
    along: (f32, f32),
}

impl Gradient {
    fn draw(middle: Colour, strength: f32, stream: &mut Stream) -> Self {
        Self {
            middle,
            slope: std::array::from_fn(|_| stream.between(-strength, strength)),
            along: direction(stream),
        }
    }

    fn at(&self, x: f32, y: f32) -> Colour {
        let half = SIDE as f32 / 2.0;
        let way = ((x - half) * self.along.0 + (y - half) * self.along.1) / half;
        std::array::from_fn(|c| self.middle[c] + self.slope[c] * way)
    }
}

/// Where the form stands: pixels to the form's own coordinates.
struct Pose {
    x: f32,
    y: f32,
    along: (f32, f32),
    /// Pixels per unit of `u` and of `v`.
    radius: (f32, f32),
}

impl Pose {
    fn draw(stream: &mut Stream) -> Self {
        let half = SIDE as f32 / 2.0;
        let radius = stream.between(8.5, 12.5);
        let aspect = stream.between(0.85, 1.15);
        Self {
            x: half + stream.between(-3.0, 3.0),
            y: half + stream.between(-3.0, 3.0),
            along: direction(stream),
            radius: (radius, radius * aspect),
        }
    }

    fn to_form(&self, x: f32, y: f32) -> (f32, f32) {
        let (dx, dy) = (x - self.x, y - self.y);
        (
            (dx * self.along.0 + dy * self.along.1) / self.radius.0,
            (dy * self.along.0 - dx * self.along.1) / self.radius.1,
        )
    }
}

/// A thick line with round ends.
struct Segment {
    from: (f32, f32),
    step: (f32, f32),
    half_width: f32,
}

impl Segment {
    /// Anywhere.
    fn clutter(stream: &mut Stream) -> Self {
        let side = SIDE as f32;
        let from = (stream.between(0.0, side), stream.between(0.0, side));
        Self::from(
            from,
            stream.between(3.0, 14.0),
            stream.between(0.6, 2.2),
            stream,
        )
    }

    /// Near the form.
    fn occluder(pose: &Pose, stream: &mut Stream) -> Self {
        let reach = pose.radius.0;
        let from = (
            pose.x + stream.between(-reach, reach),
            pose.y + stream.between(-reach, reach),
        );
        Self::from(
            from,
            stream.between(2.0, 10.0),
            stream.between(0.8, 2.0),
            stream,
        )
    }

    fn from(from: (f32, f32), length: f32, half_width: f32, stream: &mut Stream) -> Self {
        let (x, y) = direction(stream);
        Self {
            from,
            step: (x * length, y * length),
            half_width,
        }
    }

    fn contains(&self, x: f32, y: f32) -> bool {
        let (dx, dy) = (x - self.from.0, y - self.from.1);
        let (sx, sy) = self.step;
        let along = ((dx * sx + dy * sy) / (sx * sx + sy * sy)).clamp(0.0, 1.0);
        let (ox, oy) = (dx - along * sx, dy - along * sy);
        ox * ox + oy * oy < self.half_width * self.half_width
    }

    fn paint(&self, canvas: &mut Canvas, stream: &mut Stream) {
        let colour = colour(stream);
        canvas.paint(|x, y| self.contains(x, y), |_, _| colour);
    }
}

impl Canvas {
    fn lit(background: Colour, stream: &mut Stream) -> Self {
        let light = Gradient::draw(background, 0.2, stream);
        let mut canvas = Self([0.0; CHANNELS * PLANE]);
        canvas.paint(|_, _| true, |x, y| light.at(x, y));
        canvas
    }

    /// Covers each pixel with `colour` in proportion to the sample points that are `inside`.
    fn paint(&mut self, inside: impl Fn(f32, f32) -> bool, colour: impl Fn(f32, f32) -> Colour) {
        let offset = |sample: usize| (sample as f32 + 0.5) / SAMPLES as f32;
        for row in 0..SIDE {
            for column in 0..SIDE {
                let mut hits = 0;
                for sample in 0..SAMPLES * SAMPLES {
                    let x = column as f32 + offset(sample % SAMPLES);
                    let y = row as f32 + offset(sample / SAMPLES);
                    hits += u8::from(inside(x, y));
                }
                if hits == 0 {
                    continue;
                }
                let cover = f32::from(hits) / (SAMPLES * SAMPLES) as f32;
                let new = colour(column as f32 + 0.5, row as f32 + 0.5);
                for (channel, new) in new.into_iter().enumerate() {
                    let value = &mut self.0[channel * PLANE + row * SIDE + column];
                    *value += cover * (new - *value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paint_covers_what_is_inside_and_softens_edges() {
        let mut canvas = Canvas([0.0; CHANNELS * PLANE]);
        // Left of x = 3.5: columns 0 to 2 fully, column 3 by half. Rows and columns must not be swapped.
        canvas.paint(|x, _| x < 3.5, |_, _| [1.0, 0.5, 0.0]);
        assert_eq!(canvas.0[7 * SIDE..7 * SIDE + 5], [1.0, 1.0, 1.0, 0.5, 0.0]);
        assert_eq!(canvas.0[PLANE + 31 * SIDE + 2], 0.5);
        assert!(canvas.0[2 * PLANE..].iter().all(|&value| value == 0.0));
    }

    #[test]
    fn a_pose_maps_its_centre_to_the_origin_and_its_radius_to_one() {
        let pose = Pose {
            x: 10.0,
            y: 20.0,
            along: (0.0, 1.0),
            radius: (4.0, 8.0),
        };
        assert_eq!(pose.to_form(10.0, 20.0), (0.0, 0.0));
        assert_eq!(pose.to_form(10.0, 24.0), (1.0, 0.0));
        assert_eq!(pose.to_form(2.0, 20.0), (0.0, 1.0));
    }

    #[test]
    fn segments_have_round_ends() {
        let segment = Segment {
            from: (0.0, 0.0),
            step: (4.0, 0.0),
            half_width: 1.0,
        };
        assert!(segment.contains(2.0, 0.9) && segment.contains(-0.9, 0.0));
        assert!(!segment.contains(2.0, 1.1) && !segment.contains(4.8, 0.8));
    }
}
