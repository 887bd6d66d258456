//! Bounds how deeply an encoded message nests, before the recursive decoder sees it.
//!
//! etcd accepts transactions inside transactions until the operation budget runs out (127 levels,
//! about 256 message levels), which is more than prost's default recursion limit. That limit is
//! therefore off, and this scan, which uses no stack, stands in front of every decoder of bytes
//! that came from outside.

use thiserror::Error;

use crate::next_field;

/// The bytes nest deeper than the bound allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("message nests deeper than {max} levels")]
pub struct DepthError {
    /// The bound that was exceeded, in message levels.
    pub max: usize,
}

/// Field numbers that lead from a transaction into a nested one: `TxnRequest.success` and
/// `TxnRequest.failure`, then `RequestOp.request_txn`.
const BRANCHES: [u64; 2] = [2, 3];
const REQUEST_TXN: u64 = 4;

/// Fails when `encoded`, a `TxnRequest`, holds transactions nested more than `max` deep.
///
/// A flat transaction has depth 1. Malformed bytes end the scan without an error: the decoder
/// that follows reports them. Every byte is looked at once a
/// level at most.
pub fn check_nesting(encoded: &[u8], max: usize) -> Result<(), DepthError> {
    // Every open message is what is still to be read of it. Transactions stand at even
    // positions of the stack, operations at odd ones.
    let mut open: Vec<&[u8]> = vec![encoded];
    while let Some(at) = open.len().checked_sub(1) {
        let is_transaction = at % 2 == 0;
        let Some((number, body)) = next_field(&mut open[at]) else {
            open.pop();
            continue;
        };
        let entered = match (is_transaction, body) {
            (true, Some(body)) if BRANCHES.contains(&number) => body,
            (false, Some(body)) if number == REQUEST_TXN => body,
            _ => continue,
        };
        if !is_transaction && at / 2 + 2 > max {
            return Err(DepthError { max });
        }
        open.push(entered);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::etcdserverpb::{RequestOp, TxnRequest, request_op::Request};

    fn nested(levels: usize) -> Vec<u8> {
        let mut txn = TxnRequest::default();
        for level in 1..levels {
            let op = RequestOp { request: Some(Request::RequestTxn(txn)) };
            txn = TxnRequest::default();
            if level % 2 == 0 { txn.success.push(op) } else { txn.failure.push(op) }
        }
        txn.encode_to_vec()
    }

    #[test]
    fn the_bound_is_exact() {
        for levels in 1..20 {
            assert_eq!(check_nesting(&nested(levels), levels), Ok(()));
            assert_eq!(check_nesting(&nested(levels + 1), levels), Err(DepthError { max: levels }));
        }
    }

    #[test]
    fn hostile_bytes_end_the_scan() {
        assert_eq!(check_nesting(&nested(200), 128), Err(DepthError { max: 128 }));
        assert_eq!(check_nesting(&[0x12, 0xff, 0xff, 0xff], 1), Ok(()));
        assert_eq!(check_nesting(&[0xff; 30], 1), Ok(()));
    }
}
