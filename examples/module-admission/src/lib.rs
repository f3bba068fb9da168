//! An admission rule of one's own: images must say which version they are, by a tag other than `latest` or by a digest.

use pintle_sdk::prelude::*;
use serde::Deserialize;

/// A pod, as far as the rule reads it: nothing else is parsed.
#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    spec: Spec<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default)]
    containers: Vec<Container<'a>>,
    #[serde(borrow, default)]
    init_containers: Vec<Container<'a>>,
}

#[derive(Deserialize)]
struct Container<'a> {
    #[serde(default)]
    image: &'a str,
}

struct TaggedImages;

impl Admission for TaggedImages {
    fn start(_: &Start) -> Result<Self> {
        Ok(TaggedImages)
    }

    fn review(&self, review: &Review) -> Result<Verdict> {
        let Some(pod) = review.object::<Pod>()? else { return Ok(Verdict::allow()) };
        let mut images = pod.spec.containers.iter().chain(&pod.spec.init_containers).map(|container| container.image);
        Ok(match images.find(|image| !is_pinned(image)) {
            Some(image) => Verdict::deny(format!("image {image:?} must have a tag other than latest, or a digest")),
            None => Verdict::allow(),
        })
    }
}

fn is_pinned(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or(image);
    image.contains('@') || name.split_once(':').is_some_and(|(_, tag)| !tag.is_empty() && tag != "latest")
}

pintle_sdk::admission!(TaggedImages);

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_sdk::Operation;

    fn check(image: &str, allowed: bool) -> Result<()> {
        let pod =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "fine:1"}, {"name": "b", "image": image}]}})
                .to_string();
        let review = Review::new(Operation::Create, ObjectRef::named("", "pods", "shop", "p"), pod.as_bytes(), b"");
        assert_eq!(TaggedImages.review(&review)?.allowed(), allowed, "{image}");
        Ok(())
    }

    #[test]
    fn an_image_says_which_version_it_is() -> Result<()> {
        check("web:1.2", true)?;
        check("registry:5000/web@sha256:00", true)?;
        check("registry:5000/web:1", true)?;
        check("registry:5000/web", false)?;
        check("web:latest", false)?;
        check("web", false)
    }
}
