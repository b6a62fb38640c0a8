//! A reference to an image, taken apart: `repository[:tag][@sha256:…]`.

use std::str::FromStr;

use crate::values::Image;

/// Where the image is. Without tag and digest the version of the chart's application counts as the tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    pub repository: String,
    pub tag: Option<String>,
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: Option<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no image: expected `repository[:tag][@sha256:…]`")]
pub struct BadImage(pub String);

impl FromStr for ImageRef {
    type Err = BadImage;

    fn from_str(text: &str) -> Result<Self, BadImage> {
        let bad = || BadImage(text.to_owned());
        let (named, digest) = match text.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash is that of the registry's port.
        let (repository, tag) = match named.rsplit_once(':') {
            Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
            _ => (named, None),
        };
        let hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        let good_digest = digest.is_none_or(|digest| {
            let digits = digest.strip_prefix("sha256:").unwrap_or_default();
            digits.len() == 64 && digits.chars().all(hex)
        });
        let word = |text: &str, also: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
        };
        let good_tag = tag.is_none_or(|tag| tag.len() <= 128 && word(tag, "._-"));
        if !good_digest || !good_tag || !word(repository, "._-/:") || repository.ends_with('/') {
            return Err(bad());
        }
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

impl ImageRef {
    /// Puts this image into values.
    pub fn set(&self, image: &mut Image) {
        image.repository.clone_from(&self.repository);
        image.tag = self.tag.clone().unwrap_or_default();
        image.digest = self.digest.clone().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_taken_apart() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let parts = |text: &str| {
            let ImageRef {
                repository,
                tag,
                digest,
            } = text.parse()?;
            Ok::<_, BadImage>((
                repository,
                tag.unwrap_or_default(),
                digest.unwrap_or_default(),
            ))
        };
        let own = |a: &str, b: &str, c: &str| Ok((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(parts("aggrik8s"), own("aggrik8s", "", ""));
        assert_eq!(parts("r.lan:5000/a/b"), own("r.lan:5000/a/b", "", ""));
        assert_eq!(parts("r.lan:5000/a/b:v1"), own("r.lan:5000/a/b", "v1", ""));
        assert_eq!(
            parts(&format!("r.lan/a:v1@{digest}")),
            own("r.lan/a", "v1", &digest)
        );
        assert_eq!(parts(&format!("a@{digest}")), own("a", "", &digest));
        for bad in [
            "",
            ":v1",
            "a:",
            "a@",
            "a@sha256:12",
            "-a",
            "a b",
            "a/",
            "a@sha512:00",
        ] {
            assert_eq!(parts(bad), Err(BadImage(bad.to_owned())), "{bad}");
        }
    }
}
