"""A table in the manner of a competition: pandas, categories as codes, train_test_split, class weights."""

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from tensorflow.keras import callbacks, layers, models

SEED = 2024
np.random.seed(SEED)
cancer = load_breast_cancer()
df = pd.DataFrame(cancer.data, columns=cancer.feature_names)
df["size"] = pd.cut(df["mean area"], 4, labels=["s", "m", "l", "xl"]).astype("category").cat.codes
df["target"] = cancer.target
df = df.sample(frac=0.4).reset_index(drop=True)
features = [name for name in df.columns if name != "target"]
X_train, X_valid, y_train, y_valid = train_test_split(df[features], df["target"], test_size=0.2, stratify=df["target"])
mean, std = X_train.mean(), X_train.std()
X_train, X_valid = (X_train - mean) / std, (X_valid - mean) / std

model = models.Sequential()
model.add(layers.Dense(16, activation="relu"))
model.add(layers.BatchNormalization())
model.add(layers.Dropout(0.3))
model.add(layers.Dense(1, activation="sigmoid"))
model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy", "AUC"])
share = y_train.mean()
model.fit(
    X_train, y_train, validation_data=(X_valid, y_valid), epochs=3, batch_size=32, class_weight={0: 1 - share, 1: share},
    callbacks=[callbacks.ReduceLROnPlateau(patience=1), callbacks.EarlyStopping(patience=5)], verbose=2,
)  # fmt: skip
submission = pd.DataFrame({"id": X_valid.index, "target": model.predict(X_valid, verbose=0)[:, 0]})
submission.to_csv("submission.csv", index=False)
