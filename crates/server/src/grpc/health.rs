//! The standard health service: the server as a whole, which has the empty name.

use bytes::Bytes;
use node::requests::Code;
use proto::health::health_check_response::ServingStatus;
use proto::health::{
    HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse,
};

use super::reply::Reply;
use super::status::Status;
use super::stream::Stream;
use super::wire;

fn state(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status as i32 }
}

pub(super) fn check(request: &HealthCheckRequest) -> Result<Reply, Status> {
    if request.service.is_empty() {
        return Ok(Reply::of(&state(ServingStatus::Serving)));
    }
    Err(Status::new(Code::NotFound, "unknown service"))
}

pub(super) fn list(_: &HealthListRequest) -> Result<Reply, Status> {
    let statuses = [(String::new(), state(ServingStatus::Serving))].into();
    Ok(Reply::of(&HealthListResponse { statuses }))
}

pub(super) async fn watch(stream: &mut Stream, message: Bytes) -> Result<(), Status> {
    let request: HealthCheckRequest = wire::decode_streamed(&message)?;
    let status = if request.service.is_empty() {
        ServingStatus::Serving
    } else {
        ServingStatus::ServiceUnknown
    };
    stream.message(&state(status)).await?;
    Err(stream.interrupted().await)
}
