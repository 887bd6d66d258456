//! What memory is used for.

use http::{Response, StatusCode};

use super::failure;
use crate::grpc::Body;

/// Says how to get one: the system's allocator does not know who asked.
const ABSENT: &str = "heap: this build cannot tell who uses memory";

pub(super) async fn profile() -> Response<Body> {
    failure(StatusCode::NOT_IMPLEMENTED, ABSENT)
}
