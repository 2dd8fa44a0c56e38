//! The ten forms, each a yes-or-no question about a point: is `(u, v)` inside?
//!
//! Coordinates are the form's own: its centre is the origin, it lies within the unit circle, and rotation has been undone.
//! Solid forms have about the same area, so the amount of foreground does not name them.

use crate::random::Stream;

/// Random traits of one drawing, drawn for every class alike.
pub(super) struct Traits {
    /// Periods of a texture across the unit length.
    frequency: f32,
    /// Shift of a texture in periods.
    phase: f32,
    /// Thickness of rings and crosses.
    thickness: f32,
    /// Which outline bounds a texture: a texture's outline must not name it.
    outline: Form,
}

impl Traits {
    pub(super) fn draw(stream: &mut Stream) -> Self {
        const OUTLINES: [Form; 3] = [disc, square, triangle];
        Self {
            frequency: stream.between(1.3, 2.1),
            phase: stream.unit(),
            thickness: stream.between(0.28, 0.42),
            outline: OUTLINES[stream.below(OUTLINES.len())],
        }
    }
}

/// Whether the point `(u, v)` is inside the form.
pub(super) type Form = fn(u: f32, v: f32, traits: &Traits) -> bool;

/// Class names and forms in label order.
pub(super) const FORMS: [(&str, Form); 10] = [
    ("disc", disc),
    ("ring", ring),
    ("square", square),
    ("triangle", triangle),
    ("star", star),
    ("cross", cross),
    ("stripes", stripes),
    ("checks", checks),
    ("dots", dots),
    ("waves", waves),
];

fn disc(u: f32, v: f32, _: &Traits) -> bool {
    u * u + v * v < 0.85 * 0.85
}

fn ring(u: f32, v: f32, traits: &Traits) -> bool {
    let squared = u * u + v * v;
    let inner = 0.95 - traits.thickness;
    squared < 0.95 * 0.95 && squared > inner * inner
}

fn square(u: f32, v: f32, _: &Traits) -> bool {
    u.abs() < 0.7 && v.abs() < 0.7
}

fn triangle(u: f32, v: f32, _: &Traits) -> bool {
    // Three half-planes at 120 degrees; the corners lie at distance 1.1.
    const HALF_ROOT_3: f32 = 0.866_025_4;
    v < 0.55 && HALF_ROOT_3 * u - 0.5 * v < 0.55 && -HALF_ROOT_3 * u - 0.5 * v < 0.55
}

fn star(u: f32, v: f32, _: &Traits) -> bool {
    // A pentagram is where at most one of five half-planes is left. Normals at multiples of 72 degrees.
    const NORMALS: [(f32, f32); 5] = [
        (0.0, 1.0),
        (0.951_056_5, 0.309_017),
        (0.587_785_25, -0.809_017),
        (-0.587_785_25, -0.809_017),
        (-0.951_056_5, 0.309_017),
    ];
    let outside = NORMALS.iter().filter(|(a, b)| a * u + b * v > 0.34).count();
    outside <= 1
}

fn cross(u: f32, v: f32, traits: &Traits) -> bool {
    let (low, high) = if u.abs() < v.abs() {
        (u.abs(), v.abs())
    } else {
        (v.abs(), u.abs())
    };
    low < 0.85 * traits.thickness && high < 0.95
}

fn stripes(u: f32, v: f32, traits: &Traits) -> bool {
    textured(u, v, traits, |s, _| fraction(s) < 0.5)
}

fn checks(u: f32, v: f32, traits: &Traits) -> bool {
    textured(u, v, traits, |s, t| {
        (fraction(s) < 0.5) == (fraction(t) < 0.5)
    })
}

fn dots(u: f32, v: f32, traits: &Traits) -> bool {
    textured(u, v, traits, |s, t| {
        let (a, b) = (fraction(s) - 0.5, fraction(t) - 0.5);
        a * a + b * b < 0.38 * 0.38
    })
}

fn waves(u: f32, v: f32, traits: &Traits) -> bool {
    textured(u, v, traits, |s, t| fraction(s + 0.3 * bend(0.8 * t)) < 0.5)
}

/// A texture inside the outline; `inside` sees coordinates in periods.
fn textured(u: f32, v: f32, traits: &Traits, inside: impl Fn(f32, f32) -> bool) -> bool {
    let periods = |x: f32| x * traits.frequency + traits.phase;
    (traits.outline)(0.9 * u, 0.9 * v, traits) && inside(periods(u), periods(v))
}

fn fraction(x: f32) -> f32 {
    x - x.floor()
}

/// A wave of period 1 between -1 and 1 made of parabolas: like a sine, but the same to the bit on every platform.
fn bend(x: f32) -> f32 {
    let t = 2.0 * fraction(x) - 1.0;
    4.0 * t * (1.0 - t.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits() -> Traits {
        Traits {
            frequency: 1.5,
            phase: 0.1,
            thickness: 0.35,
            outline: square,
        }
    }

    #[test]
    fn forms_contain_the_points_they_should() {
        let inside = |form: Form, u, v| form(u, v, &traits());
        assert!(inside(disc, 0.0, 0.0) && !inside(ring, 0.0, 0.0));
        assert!(inside(ring, 0.8, 0.0) && !inside(ring, 0.5, 0.0));
        assert!(inside(square, 0.69, 0.69) && !inside(disc, 0.69, 0.69));
        assert!(inside(triangle, 0.0, -1.0) && !inside(triangle, 0.0, 0.6));
        // A tip of the pentagram lies along each normal, a notch opposite to it.
        assert!(inside(star, 0.0, 1.0) && !inside(star, 0.0, -0.5));
        assert!(inside(cross, 0.9, 0.0) && inside(cross, 0.0, -0.9) && !inside(cross, 0.5, 0.5));
        assert!(!inside(stripes, 0.9, 0.9));
    }

    #[test]
    fn every_form_covers_a_similar_share_of_the_plane() {
        for (name, form) in FORMS {
            let mut covered = 0;
            for y in 0..100 {
                for x in 0..100 {
                    let (u, v) = (x as f32 / 45.0 - 1.1, y as f32 / 45.0 - 1.1);
                    covered += usize::from(form(u, v, &traits()));
                }
            }
            // Of the square of side 2.2; a disc of radius 0.85 covers 0.47.
            assert!((1_500..4_800).contains(&covered), "{name} {covered}");
        }
    }

    #[test]
    fn bend_is_periodic_and_bounded() {
        assert_eq!(bend(0.0), 0.0);
        assert_eq!(bend(0.75), 1.0);
        assert_eq!(bend(0.25), -1.0);
        assert_eq!(bend(1.75), 1.0);
    }
}
