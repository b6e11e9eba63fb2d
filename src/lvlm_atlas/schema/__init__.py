"""What the files of an atlas may say."""
