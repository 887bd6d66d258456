//! Authentication is not built yet: it is off, and says so.

use bytes::Bytes;
use node::requests::{Code, Rejected};
use proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthStatusRequest, AuthStatusResponse,
    AuthenticateRequest,
};

use super::call::Call;
use super::method::Method;
use super::reply::Reply;
use super::status::Status;

/// The revision of an auth store that nothing has changed.
const FIRST_REVISION: u64 = 1;

pub(super) fn answer(call: &mut Call, message: Bytes) -> Result<Reply, Status> {
    match call.method {
        Method::AuthStatus => {
            let AuthStatusRequest {} = call.open(message)?;
            let header = Some(call.api.header());
            let auth_revision = FIRST_REVISION;
            Ok(Reply::of(&AuthStatusResponse { header, enabled: false, auth_revision }))
        }
        Method::AuthDisable => {
            let AuthDisableRequest {} = call.open(message)?;
            Ok(Reply::of(&AuthDisableResponse { header: Some(call.api.header()) }))
        }
        Method::Authenticate => {
            let _: AuthenticateRequest = call.open(message)?;
            Err(Rejected::AuthNotEnabled.into())
        }
        _ => {
            call.check(false)?;
            let text = "authentication is not supported by this version of quorate";
            Err(Status::new(Code::Unimplemented, text))
        }
    }
}
