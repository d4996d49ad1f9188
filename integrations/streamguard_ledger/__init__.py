"""Where receipts become durable: an embedded ledger, how to read and verify it, and your prices."""

from streamguard_ledger.canonical import NotCanonical
from streamguard_ledger.price_book import PriceBook
from streamguard_ledger.reading import StoredRecord, read_receipt, read_receipts, read_records
from streamguard_ledger.report import Problem, VerifyReport, WriterReport, WriterState
from streamguard_ledger.sqlite import SQLiteLedger
from streamguard_ledger.verifying import verify

__all__ = [
    "NotCanonical",
    "PriceBook",
    "Problem",
    "SQLiteLedger",
    "StoredRecord",
    "VerifyReport",
    "WriterReport",
    "WriterState",
    "read_receipt",
    "read_receipts",
    "read_records",
    "verify",
]
