"""A k-fold loop with a seed in the wrong place, pandas and a model per fold."""

import keras
import numpy as np
import pandas as pd
from sklearn.datasets import load_wine
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

wine = load_wine()
frame = pd.DataFrame(StandardScaler().fit_transform(wine.data), columns=wine.feature_names)
scores = []
for train, test in StratifiedKFold(3, shuffle=True, random_state=1).split(frame, wine.target):
    model = keras.Sequential([keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(3)])
    keras.utils.set_random_seed(42)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    data = frame.iloc[test], wine.target[test]
    model.fit(frame.iloc[train], wine.target[train], validation_data=data, epochs=2, callbacks=[stop], verbose=0)
    scores.append(model.evaluate(*data, verbose=0)[1])
print("mean accuracy", np.mean(scores))
