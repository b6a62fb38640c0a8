//! A tile of two bands, the index computed from it, and a generator of plausible tiles.

use crate::MAX_SIDE;

/// Two bands of the same size, row by row. Never empty, never above [`MAX_SIDE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    width: u16,
    height: u16,
    red: Vec<u16>,
    nir: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTile {
    #[error("a tile of {width} x {height} pixels is outside 1 to {MAX_SIDE} per side")]
    Size { width: u16, height: u16 },
    #[error("the {band} band has {found} pixels instead of {expected}")]
    Band {
        band: &'static str,
        found: usize,
        expected: usize,
    },
}

/// NDVI of one pixel as a fixed-point number: (NIR − Red) / (NIR + Red) × 10 000, rounded half away
/// from zero, so between −10 000 and 10 000. Without any light (sum 0) it is 0.
#[must_use]
pub fn index(red: u16, nir: u16) -> i16 {
    let sum = i64::from(nir) + i64::from(red);
    if sum == 0 {
        return 0;
    }
    let difference = (i64::from(nir) - i64::from(red)) * 10_000;
    let rounded = (2 * difference + difference.signum() * sum) / (2 * sum);
    i16::try_from(rounded).expect("|difference| <= sum, so the quotient is within ±10 000")
}

/// Checks a size before anything is allocated for it; returns the number of pixels.
pub(crate) fn pixels(width: u16, height: u16) -> Result<usize, InvalidTile> {
    let side = 1..=MAX_SIDE;
    if side.contains(&width) && side.contains(&height) {
        Ok(usize::from(width) * usize::from(height))
    } else {
        Err(InvalidTile::Size { width, height })
    }
}

impl Tile {
    /// # Errors
    /// When a side is 0 or above [`MAX_SIDE`], or a band does not have width × height pixels.
    pub fn new(width: u16, height: u16, red: Vec<u16>, nir: Vec<u16>) -> Result<Self, InvalidTile> {
        let expected = pixels(width, height)?;
        for (band, found) in [("red", red.len()), ("near-infrared", nir.len())] {
            if found != expected {
                return Err(InvalidTile::Band {
                    band,
                    found,
                    expected,
                });
            }
        }
        Ok(Self {
            width,
            height,
            red,
            nir,
        })
    }

    /// A field with patches of vegetation, bare soil and dark pixels. The same arguments always give
    /// the same tile; another seed gives another.
    ///
    /// # Errors
    /// When a side is 0 or above [`MAX_SIDE`].
    pub fn synthetic(seed: u64, width: u16, height: u16) -> Result<Self, InvalidTile> {
        let count = pixels(width, height)?;
        let mut red = Vec::with_capacity(count);
        let mut nir = Vec::with_capacity(count);
        for y in 0..u64::from(height) {
            for x in 0..u64::from(width) {
                // Patches of 8 × 8 share their cover, each pixel adds its own noise.
                let patch = mix(seed ^ mix((y / 8) << 32 | (x / 8)));
                let noise = mix(seed.rotate_left(17) ^ mix(y << 32 | x));
                if noise.is_multiple_of(97) {
                    red.push(0);
                    nir.push(0);
                    continue;
                }
                let cover = patch % 1000;
                // Plants absorb red and reflect near-infrared; soil reflects both alike.
                red.push(band(9_000 - 8 * cover, noise));
                nir.push(band(10_000 + 30 * cover, noise >> 32));
            }
        }
        Self::new(width, height, red, nir)
    }

    #[must_use]
    pub fn width(&self) -> u16 {
        self.width
    }

    #[must_use]
    pub fn height(&self) -> u16 {
        self.height
    }

    /// Red reflectance, row by row.
    #[must_use]
    pub fn red(&self) -> &[u16] {
        &self.red
    }

    /// Near-infrared reflectance, row by row.
    #[must_use]
    pub fn nir(&self) -> &[u16] {
        &self.nir
    }

    /// [`index`] of every pixel, row by row.
    #[must_use]
    pub fn ndvi(&self) -> Vec<i16> {
        std::iter::zip(&self.red, &self.nir)
            .map(|(&red, &nir)| index(red, nir))
            .collect()
    }
}

fn band(base: u64, noise: u64) -> u16 {
    u16::try_from(base + noise % 512).expect("at most 40 000 + 511")
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn index_is_the_formula_in_fixed_point() {
        for (red, nir, expected) in [
            (0, 0, 0),
            (0, 1, 10_000),
            (1, 0, -10_000),
            (0, u16::MAX, 10_000),
            (u16::MAX, 0, -10_000),
            (u16::MAX, u16::MAX, 0),
            (1, 3, 5_000),
            (3, 1, -5_000),
            (1, 2, 3_333),
            (2, 1, -3_333),
            // 20 000 / 3 = 6 666.67 goes up; 1/32 = 312.5 goes away from zero on both sides.
            (1, 5, 6_667),
            (31, 33, 313),
            (33, 31, -313),
        ] {
            assert_eq!(index(red, nir), expected, "red {red}, nir {nir}");
        }
    }

    #[test]
    fn index_agrees_with_floating_point_everywhere() {
        for red in (0..=u16::MAX).step_by(257) {
            for nir in (1..=u16::MAX).step_by(263) {
                let exact = (f64::from(nir) - f64::from(red)) / (f64::from(nir) + f64::from(red));
                let found = f64::from(index(red, nir)) / 10_000.0;
                assert!(
                    (found - exact).abs() <= 0.000_05 + 1e-12,
                    "red {red}, nir {nir}: {found} for {exact}"
                );
            }
        }
    }

    #[test]
    fn sizes_outside_the_limits_are_refused() {
        for (width, height) in [(0, 1), (1, 0), (MAX_SIDE + 1, 1), (1, u16::MAX)] {
            let refused = Err(InvalidTile::Size { width, height });
            assert_eq!(Tile::new(width, height, vec![], vec![]), refused);
            assert_eq!(Tile::synthetic(0, width, height), refused);
        }
        assert!(Tile::synthetic(0, MAX_SIDE, 1).is_ok());
        assert_eq!(
            Tile::new(2, 2, vec![0; 4], vec![0; 3]),
            Err(InvalidTile::Band {
                band: "near-infrared",
                found: 3,
                expected: 4
            })
        );
    }

    #[test]
    fn synthetic_tiles_repeat_and_vary() {
        let tile = Tile::synthetic(7, 64, 48).unwrap();
        assert_eq!(tile, Tile::synthetic(7, 64, 48).unwrap());
        assert_ne!(tile, Tile::synthetic(8, 64, 48).unwrap());
        let ndvi = tile.ndvi();
        assert_eq!(ndvi.len(), 64 * 48);
        // A useful tile has plants, soil and pixels without light.
        assert!(ndvi.iter().any(|&v| v > 6_000), "{:?}", ndvi.iter().max());
        assert!(ndvi.iter().any(|&v| (1..2_000).contains(&v)));
        assert!(
            tile.red()
                .iter()
                .zip(tile.nir())
                .any(|(&r, &n)| r == 0 && n == 0)
        );
    }
}
