"""Step 7, retraining: nightly, from the champion's weights, and promoted only through the gate.

Nightly retraining continues the champion's training on the decisions labelled since, and enters the
result as a challenger. A challenger, from nightly retraining or from `swap`, is compared with the
champion on the newest labelled days, which no model is trained on, and in shadow mode on live
traffic. Training from scratch on all data would take longer every night and change more than the
new labels require; `swap` does it on demand.

Labels arrive two weeks late. Nightly retraining does not guess them: with too few it trains nothing
and reports that.
"""
