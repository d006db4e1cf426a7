"""The connections of the application under test, sent to the clone of the test."""
