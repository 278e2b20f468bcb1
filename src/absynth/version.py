"""The version: files and corpora carry it, so it stands below everything."""

VERSION = "0.1.0"
