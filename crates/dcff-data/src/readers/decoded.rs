//! A decoded image.

/// A decoded image: rows of pixels, `pixels` is `[H, W, C]`, `C` is 1 (grey) or 3.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decoded {
    /// Height and width.
    pub(crate) size: [usize; 2],
    pub(crate) channels: usize,
    pub(crate) pixels: Vec<u8>,
}

impl Decoded {
    /// The image with `channels` channels: grey is repeated over three; colours become grey by ITU-R BT.709's luma.
    pub(crate) fn with_channels(self, channels: usize) -> Result<Self, String> {
        let pixels = match (self.channels, channels) {
            (from, to) if from == to => return Ok(self),
            (1, 3) => self.pixels.iter().flat_map(|&grey| [grey; 3]).collect(),
            (3, 1) => self
                .pixels
                .as_chunks::<3>()
                .0
                .iter()
                .map(|rgb| {
                    let [r, g, b] = rgb.map(f32::from);
                    (0.2126 * r + 0.7152 * g + 0.0722 * b).round() as u8
                })
                .collect(),
            (from, to) => return Err(format!("expected {to} channels, got {from}")),
        };
        Ok(Self {
            channels,
            pixels,
            ..self
        })
    }

    /// Writes the image as planes `[C, H, W]`; `out` has its length.
    pub(crate) fn write_planes(&self, out: &mut [u8]) {
        let plane = self.size[0] * self.size[1];
        for (channel, plane) in out.chunks_exact_mut(plane).enumerate() {
            let values = self.pixels[channel..].iter().step_by(self.channels);
            for (out, &value) in plane.iter_mut().zip(values) {
                *out = value;
            }
        }
    }

    /// The image of planes `[C, H, W]`.
    pub(crate) fn from_planes(planes: &[u8], [channels, height, width]: [usize; 3]) -> Self {
        let plane = height * width;
        let pixels = (0..plane)
            .flat_map(|at| (0..channels).map(move |channel| planes[channel * plane + at]))
            .collect();
        Self {
            size: [height, width],
            channels,
            pixels,
        }
    }
}
